//! Deliberate faults on a CUDA device.

/// Breaks the device's context once the file in `KIT_BREAK` exists, and deletes the file.
#[cfg(not(feature = "cuda"))]
pub(crate) fn break_when_told() {}

#[cfg(feature = "cuda")]
pub(crate) use cuda::{Hog, break_when_told};

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "launches a kernel and allocates memory of the device")]
mod cuda {
    use std::{path::PathBuf, sync::Arc, time::Duration};

    use candle_core::cuda_backend::cudarc::{
        driver::{CudaContext, CudaSlice, CudaStream, LaunchConfig, PushKernelArg as _},
        nvrtc::Ptx,
    };

    /// A store to an unmapped address. After it, every call of the context fails.
    const STORE_TO_NOWHERE: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry store_to_nowhere(.param .u64 address)
{
    .reg .b64 %where;
    .reg .b32 %what;
    ld.param.u64 %where, [address];
    mov.u32 %what, 1;
    st.global.u32 [%where], %what;
    ret;
}
";
    const NOWHERE: u64 = 16;
    const LOOKS_EVERY: Duration = Duration::from_millis(20);

    /// See the function of the same name without CUDA.
    pub(crate) fn break_when_told() {
        let Some(told) = std::env::var_os("KIT_BREAK").map(PathBuf::from) else { return };
        std::thread::spawn(move || {
            loop {
                #[expect(clippy::disallowed_methods, reason = "a thread that does nothing else")]
                std::thread::sleep(LOOKS_EVERY);
                if std::fs::remove_file(&told).is_ok() {
                    eprintln!("kit: the context was broken: {:?}", break_context());
                }
            }
        });
    }

    /// All code in a process shares the device's primary context.
    fn break_context() -> anyhow::Result<()> {
        let context = CudaContext::new(0)?;
        let module = context.load_module(Ptx::from_src(STORE_TO_NOWHERE))?;
        let function = module.load_function("store_to_nowhere")?;
        let stream = context.new_stream()?;
        let mut launch = stream.launch_builder(&function);
        launch.arg(&NOWHERE);
        // SAFETY: the kernel takes one 64-bit parameter. It is meant to break the context. It cannot overwrite
        // any memory, since nothing is mapped at the address.
        unsafe { launch.launch(LaunchConfig::for_num_elems(1)) }?;
        Ok(stream.synchronize()?)
    }

    /// Holds almost all of a device's memory.
    pub(crate) struct Hog {
        _taken: Vec<CudaSlice<u8>>,
        _stream: Arc<CudaStream>,
    }

    /// Memory is allocated in pieces, because the free memory may not be contiguous.
    const PIECE: usize = 64 << 20;

    impl Hog {
        pub(crate) fn new(leave: usize) -> anyhow::Result<Self> {
            let context = CudaContext::new(0)?;
            let stream = context.default_stream();
            let mut taken = Vec::new();
            while context.mem_get_info()?.0 > leave + PIECE {
                // SAFETY: the memory is never read.
                taken.push(unsafe { stream.alloc(PIECE) }?);
                stream.synchronize()?;
            }
            Ok(Self { _taken: taken, _stream: stream })
        }
    }
}
