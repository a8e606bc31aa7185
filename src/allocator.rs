//! What the process keeps of memory that was freed.

/// Gives memory back to the system that the allocator keeps for later. It takes milliseconds where gigabytes were freed.
#[cfg(feature = "jemalloc")]
#[expect(unsafe_code, reason = "the allocator has a C interface")]
pub fn give_back() {
    use std::ptr::null_mut;
    // All arenas.
    let name = c"arena.4096.purge";
    // SAFETY: the name ends with a zero byte. All other pointers are null, so the call reads and writes no value.
    unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
}

/// The system's allocator gives large pieces back when they are freed.
#[cfg(not(feature = "jemalloc"))]
pub fn give_back() {}
