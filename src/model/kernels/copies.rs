//! What travels between the host and a device.
//!
//! On CUDA it travels beside the passes: each direction has a stream of its own and page-locked memory, so that the
//! images of a batch go up and its embeddings come down while the device computes another.

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "allocates page-locked memory")]
mod streams;

use candle_core::{DType, Device, Result, Shape, Tensor};

/// The ways to a device and back.
#[derive(Debug, Clone)]
pub(in crate::model) struct Copies {
    device: Device,
    #[cfg(feature = "cuda")]
    streams: Option<std::sync::Arc<streams::Streams>>,
}

impl Copies {
    /// # Errors
    /// Fails if the device gives no further streams.
    pub(in crate::model) fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            streams: match device {
                Device::Cuda(cuda) => Some(std::sync::Arc::new(streams::Streams::new(cuda)?)),
                _ => None,
            },
        })
    }

    /// Whether there is anything to gain by beginning a pass while another is under way.
    pub(in crate::model) fn overlap(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.streams.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// Bytes as a tensor of the device's, one part behind the other. The parts may be let go when this returns.
    ///
    /// * `shape`: of as many elements as the parts have bytes
    pub(in crate::model) fn upload(
        &self,
        parts: &[&[u8]],
        shape: impl Into<Shape>,
    ) -> Result<Tensor> {
        let shape = shape.into();
        #[cfg(feature = "cuda")]
        if let Some(streams) = &self.streams {
            return streams.upload(parts, shape);
        }
        Tensor::from_vec(parts.concat(), shape, &self.device)
    }

    /// The values of a tensor, in f32 and row-major, on their way to the host.
    pub(in crate::model) fn download(&self, tensor: &Tensor) -> Result<Download> {
        let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
        #[cfg(feature = "cuda")]
        if let Some(streams) = &self.streams {
            return streams.download(tensor).map(|coming| Download(Values::Coming(coming)));
        }
        Ok(Download(Values::Here(tensor.flatten_all()?.to_vec1()?)))
    }
}

/// Values on their way to the host.
pub(in crate::model) struct Download(Values);

enum Values {
    Here(Vec<f32>),
    #[cfg(feature = "cuda")]
    Coming(streams::Coming),
}

impl Download {
    /// Waits for what the device still has to do for them.
    ///
    /// # Errors
    /// Fails if any of that failed.
    pub(in crate::model) fn wait(self) -> Result<Vec<f32>> {
        match self.0 {
            Values::Here(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Values::Coming(coming) => coming.wait(),
        }
    }
}
