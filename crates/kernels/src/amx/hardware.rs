//! The tile unit of a processor, and the permission to use it.

use std::{
    arch::{
        asm,
        x86_64::{__cpuid_count, _xgetbv},
    },
    sync::OnceLock,
};

use super::{Tile, Unit};

/// Why tiles cannot be used on a processor that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The operating system does not save the registers, because it is too old or was configured so.
    #[error("the system does not save the tile registers")]
    NotSaved,
    /// The operating system does not let this process use them.
    #[error("the system does not let this process use the tile registers")]
    NotPermitted,
}

/// Whether tiles of bf16 and bytes can be used; none if the processor has none. It asks the operating system
/// once, before the first use, as the system requires.
pub(crate) fn granted() -> Option<Result<(), Refusal>> {
    static GRANTED: OnceLock<Option<Result<(), Refusal>>> = OnceLock::new();
    *GRANTED.get_or_init(|| is_there().then(ask))
}

/// Whether the processor has AMX with bf16 and bytes, and tiles of the size that is used here.
fn is_there() -> bool {
    const TILE: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    const INT8: u32 = 1 << 25;
    let last_leaf = __cpuid_count(0, 0).eax;
    if last_leaf < 0x1d || __cpuid_count(7, 0).edx & (TILE | BF16 | INT8) != TILE | BF16 | INT8 {
        return false;
    }
    let palette = __cpuid_count(0x1d, 1);
    let (bytes_of_row, registers) = (palette.ebx & 0xffff, palette.ebx >> 16);
    bytes_of_row >= 64 && registers >= 8 && palette.ecx & 0xffff >= 16
}

/// Whether the operating system saves the registers and lets this process use them.
fn ask() -> Result<(), Refusal> {
    const HAS_XGETBV: u32 = 1 << 27;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;

    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the caller has checked that the system enabled `xgetbv`.
        unsafe { _xgetbv(0) }
    }
    if __cpuid_count(1, 0).ecx & HAS_XGETBV == 0 {
        return Err(Refusal::NotSaved);
    }
    // SAFETY: CPUID has just reported that the system enabled `xsave`, and with it `xgetbv`.
    if unsafe { saved() } & TILE_STATE != TILE_STATE {
        return Err(Refusal::NotSaved);
    }
    if may_use() { Ok(()) } else { Err(Refusal::NotPermitted) }
}

/// Asks Linux for permission to use the registers, for this process and all of its threads.
#[cfg(target_os = "linux")]
fn may_use() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and accesses no memory of this process. If it is unknown or filtered
    // it fails.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Other systems have not been tried.
#[cfg(not(target_os = "linux"))]
fn may_use() -> bool {
    false
}

/// The configuration of the registers: palette 1, with eight registers of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_of_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tile registers of the current thread, from the creation of this value until it is dropped.
///
/// Registers 0 to 3 are the sums, one row of tiles after the other, 4 and 5 the inputs, 6 and 7 the weights.
/// They keep their values between two blocks of assembly: the compiler never uses them, because no code is
/// compiled with that feature, and the system saves them with the thread.
pub(crate) struct Hardware {
    /// Keeps the value on its thread.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Hardware {
    /// # Safety
    /// The processor has AMX for bf16 and bytes, the system lets this process use it, and this thread has no other
    /// value of this type.
    pub(crate) unsafe fn configure() -> Self {
        let configuration: *const Configuration = &raw const CONFIGURATION;
        // SAFETY: the operand is 64 readable bytes that describe registers of this processor.
        unsafe {
            asm!(
                "ldtilecfg [{0}]",
                in(reg) configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags),
            );
        }
        Self { _thread: std::marker::PhantomData }
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // SAFETY: this value exists only on a processor with the instruction.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem, preserves_flags),
            );
        }
    }
}

/// Instructions on tiles, with the addresses of two tiles of inputs and two of weights, and the distance
/// between the rows of a tile. The instructions only read this memory.
macro_rules! tiles {
    ($x:ident, $w:ident, $($line:expr),+ $(,)?) => {
        asm!(
            $($line,)+
            x0 = in(reg) $x[0], x1 = in(reg) $x[1], w0 = in(reg) $w[0], w1 = in(reg) $w[1],
            stride = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly, preserves_flags),
        )
    };
}

/// One product of a step: every operand is loaded once, as late as possible.
macro_rules! product {
    ($instruction:literal, $height:ident, $x:ident, $w:ident) => {
        if $height == 2 {
            tiles!(
                $x,
                $w,
                "tileloadd tmm6, [{w0} + {stride}*1]",
                "tileloadd tmm4, [{x0} + {stride}*1]",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{w1} + {stride}*1]",
                concat!($instruction, " tmm1, tmm4, tmm7"),
                "tileloadd tmm5, [{x1} + {stride}*1]",
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
            )
        } else {
            tiles!(
                $x,
                $w,
                "tileloadd tmm6, [{w0} + {stride}*1]",
                "tileloadd tmm4, [{x0} + {stride}*1]",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{w1} + {stride}*1]",
                concat!($instruction, " tmm1, tmm4, tmm7"),
                "/* {x1} */",
            )
        }
    };
}

impl Unit for Hardware {
    #[inline(always)]
    fn zero(&mut self) {
        // SAFETY: this value exists only while the registers are configured.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn add_pairs<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]) {
        // SAFETY: the caller promises readable tiles, and a unit exists only while the tile registers are configured.
        unsafe { product!("tdpbf16ps", HEIGHT, x, w) }
    }

    /// Three products with eight loads: first the smaller and the larger parts of inputs times the larger parts
    /// of weights, then the larger parts of inputs times the smaller parts of weights.
    #[inline(always)]
    unsafe fn add_split<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]) {
        // SAFETY: the caller promises that each tile and the one 1024 bytes after it are readable. A unit
        // exists only while the tile registers are configured.
        unsafe {
            if HEIGHT == 2 {
                tiles!(
                    x,
                    w,
                    "tileloadd tmm6, [{w0} + {stride}*1]",
                    "tileloadd tmm4, [{x0} + {stride}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w1} + {stride}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{x1} + {stride}*1 + 1024]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm4, [{x0} + {stride}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{x1} + {stride}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm6, [{w0} + {stride}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm7, [{w1} + {stride}*1 + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                );
            } else {
                tiles!(
                    x,
                    w,
                    "tileloadd tmm6, [{w0} + {stride}*1]",
                    "tileloadd tmm5, [{x0} + {stride}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm5, tmm6",
                    "tileloadd tmm7, [{w1} + {stride}*1]",
                    "tdpbf16ps tmm1, tmm5, tmm7",
                    "tileloadd tmm4, [{x0} + {stride}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm6, [{w0} + {stride}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w1} + {stride}*1 + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "/* {x1} */",
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn add_bytes<const HEIGHT: usize>(&mut self, x: [*const Tile; 2], w: [*const Tile; 2]) {
        // SAFETY: the caller promises readable tiles, and a unit exists only while the tile registers are
        // configured.
        unsafe { product!("tdpbusd", HEIGHT, x, w) }
    }

    #[inline(always)]
    unsafe fn store(&mut self, is_tall: bool, to: *mut i32, stride: usize) {
        // SAFETY: the caller promises writable words: a tile is 16 rows of 64 bytes, the second tile is next to
        // the first, and the others are 16 rows further. A unit exists only while the tile registers are
        // configured.
        unsafe {
            asm!(
                "tilestored [{to} + {stride}*1], tmm0",
                "tilestored [{to} + {stride}*1 + 64], tmm1",
                to = in(reg) to, stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
            if is_tall {
                let to = to.wrapping_byte_add(16 * stride);
                asm!(
                    "tilestored [{to} + {stride}*1], tmm2",
                    "tilestored [{to} + {stride}*1 + 64], tmm3",
                    to = in(reg) to, stride = in(reg) stride,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    #[inline(always)]
    fn prefetch(&self, address: *const u8) {
        // SAFETY: a prefetch is only a hint and allows any address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
        }
    }
}
