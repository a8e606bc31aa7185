//! The instruction sets for which kernels are compiled, and the choice of one at start.

mod choice;
#[cfg(target_arch = "x86_64")]
mod rates;

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::fmt;

pub use self::choice::Choice;
#[cfg(target_arch = "aarch64")]
use crate::simd::neon::Neon;
use crate::{
    Activation, Element, Epilogue, Packer, Quantizer, product,
    quantized::Ask,
    quantized_product,
    simd::{Kernel, Portable, Room},
};
#[cfg(target_arch = "x86_64")]
use crate::{
    amx,
    simd::{
        avx2::Avx2,
        avx512::{Avx512, BF16, PLAIN, VNNI},
    },
};

/// An instruction set for which kernels are compiled. A value can only be made if the processor has the set, so
/// holding one proves that the set may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    AmxTwin,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// The processor does not have the requested instruction set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this processor has no {0}")]
pub struct Lacking(Choice);

impl Level {
    /// The fastest set that this processor has.
    #[must_use]
    pub fn detect() -> Self {
        Self::preferred().0.first().copied().unwrap_or(Self(Set::Portable))
    }

    /// The sets to choose from, the fastest first, and a sentence on each other set of this processor that is
    /// left out.
    #[must_use]
    pub fn preferred() -> (Vec<Self>, Vec<String>) {
        let (mut sets, mut left_out) = (Vec::new(), Vec::new());
        for level in Self::available().into_iter().rev() {
            match level.drawback() {
                None => sets.push(level),
                Some(why) => left_out.push(format!("{level} is left out: {why}")),
            }
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(Err(refusal)) = Self::amx() {
            left_out.push(format!("amx is left out: {refusal}"));
        }
        (sets, left_out)
    }

    /// The set with the widest vectors, for work without products. Finding it needs no measurement and no
    /// system call.
    #[must_use]
    pub fn vectors() -> Self {
        use Choice::{Avx2, Avx512, Neon};
        let widest = [Avx512, Avx2, Neon].into_iter().find_map(|set| Self::choose(set).ok());
        widest.unwrap_or(Self(Set::Portable))
    }

    /// Why a set of this processor is slower than the one before it; none if it is not.
    fn drawback(self) -> Option<String> {
        #[cfg(target_arch = "x86_64")]
        if let (Set::Avx512Bf16, Some(simd)) = (self.0, Self::avx512_bf16()) {
            let ratio = rates::pairs_by_numbers(simd);
            // At 0.5, on an Intel Xeon, towers with pairs were still 1.2 times as fast as with widened weights.
            return (ratio < 0.4).then(|| {
                format!(
                    "it does {ratio:.1} multiply-adds of bf16 in the time of one of f32; bf16 weights are widened to \
                     f32 instead"
                )
            });
        }
        None
    }

    /// # Errors
    /// Fails if the processor lacks the set.
    pub fn choose(choice: Choice) -> Result<Self, Lacking> {
        match choice {
            Choice::Auto => Ok(Self::detect()),
            Choice::Portable => Ok(Self(Set::Portable)),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2 if Self::avx2().is_some() => Ok(Self(Set::Avx2)),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512 if Self::avx512().is_some() => Ok(Self(Set::Avx512)),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512Vnni if Self::avx512_vnni().is_some() => Ok(Self(Set::Avx512Vnni)),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512Bf16 if Self::avx512_bf16().is_some() => Ok(Self(Set::Avx512Bf16)),
            #[cfg(target_arch = "x86_64")]
            Choice::Amx if Self::amx() == Some(Ok(())) => Ok(Self(Set::Amx)),
            #[cfg(target_arch = "x86_64")]
            Choice::AmxTwin => Ok(Self(Set::AmxTwin)),
            #[cfg(target_arch = "aarch64")]
            Choice::Neon if Self::neon().is_some() => Ok(Self(Set::Neon)),
            _ => Err(Lacking(choice)),
        }
    }

    /// Every set that this processor has, the narrowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        use Choice::{Amx, Avx2, Avx512, Avx512Bf16, Avx512Vnni, Neon, Portable};
        let all = [Portable, Avx2, Avx512, Avx512Vnni, Avx512Bf16, Amx, Neon];
        all.into_iter().filter_map(|choice| Self::choose(choice).ok()).collect()
    }

    /// Whether the set gives the same result as plain Rust, on a small product of each kind of weights.
    #[must_use]
    pub fn is_sound(self) -> bool {
        let (rows, depth, columns) = (17, 67, 35);
        // The values have few bits, so that rounding to bf16 does not change them.
        let value = |index: usize| ((index * 7919) % 129) as f32 / 64.0 - 1.0;
        let x: Vec<_> = (0..rows * depth).map(value).collect();
        let weights: Vec<_> = (0..columns * depth).map(|index| value(index + 13)).collect();
        let epilogue = Epilogue { activation: Activation::GeluTanh, residual: None };
        let elements = [Element::F32, Element::Bf16, Element::Split];
        let packed = elements.map(|element| {
            let mut packer = Packer::new(columns, depth, element);
            packer.push(&weights);
            packer.finish()
        });
        // Weights packed for any set can be multiplied by plain Rust too.
        let mut quantizer = Quantizer::new(columns, depth, self);
        quantizer.push(&weights);
        let bytes = quantizer.finish();
        let run = |level| {
            let mut all = quantized_product(level, &x, &bytes.part(0..columns), epilogue);
            for packed in &packed {
                all.extend(product(level, &x, &packed.part(0..columns), epilogue));
            }
            all.into_iter()
        };
        // The tolerance covers two orders of rounding in a sum of 67 products of up to 1.
        run(self).zip(run(Self(Set::Portable))).all(|(own, plain)| (own - plain).abs() < 1e-4)
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> Option<Avx2> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        // SAFETY: the detection above has just confirmed the instructions.
        has.then(|| unsafe { Avx2::assume() })
    }

    #[cfg(target_arch = "x86_64")]
    fn avx512() -> Option<Avx512<PLAIN>> {
        let has = Self::avx2().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        // SAFETY: the detection above has just confirmed the instructions.
        has.then(|| unsafe { Avx512::assume() })
    }

    #[cfg(target_arch = "x86_64")]
    fn avx512_vnni() -> Option<Avx512<VNNI>> {
        let has = Self::avx512().is_some() && is_x86_feature_detected!("avx512vnni");
        // SAFETY: the detection above has just confirmed the instructions.
        has.then(|| unsafe { Avx512::assume() })
    }

    /// BF16 together with VNNI, which every processor with BF16 has.
    #[cfg(target_arch = "x86_64")]
    fn avx512_bf16() -> Option<Avx512<BF16>> {
        let has = Self::avx512_vnni().is_some() && is_x86_feature_detected!("avx512bf16");
        // SAFETY: the detection above has just confirmed the instructions.
        has.then(|| unsafe { Avx512::assume() })
    }

    /// Whether the system lets this process use AMX tiles; none if the processor has no AMX, or not the AVX-512
    /// BF16 that the kernels use with it.
    #[cfg(target_arch = "x86_64")]
    fn amx() -> Option<Result<(), amx::Refusal>> {
        Self::avx512_bf16().and_then(|_| amx::granted())
    }

    /// The set for everything that the twin of tiles does not compute: the same as with the hardware's tiles,
    /// if the processor has it.
    #[cfg(target_arch = "x86_64")]
    fn beside_twin() -> Self {
        match Self::avx512_bf16() {
            Some(_) => Self(Set::Avx512Bf16),
            None => Self(Set::Portable),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn neon() -> Option<Neon<false>> {
        // SAFETY: the detection above has just confirmed the instructions.
        is_aarch64_feature_detected!("neon").then(|| unsafe { Neon::assume() })
    }

    /// SDOT changes the speed but not the results, because sums of products of bytes are exact. So it is not a
    /// separate set.
    #[cfg(target_arch = "aarch64")]
    fn neon_dot() -> Option<Neon<true>> {
        let has = Self::neon().is_some() && is_aarch64_feature_detected!("dotprod");
        // SAFETY: the detection above has just confirmed the instructions.
        has.then(|| unsafe { Neon::assume() })
    }

    /// Runs a kernel compiled for this set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run(Portable),
            // SAFETY: a level of this set exists only if the processor has it.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { Avx2::assume().vectorize(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level of these sets exists only if the processor has it, and each of them includes
            // AVX-512. VNNI, BF16 and AMX are not used here.
            Set::Avx512 | Set::Avx512Vnni | Set::Avx512Bf16 | Set::Amx => unsafe {
                Avx512::<PLAIN>::assume().vectorize(kernel)
            },
            #[cfg(target_arch = "x86_64")]
            Set::AmxTwin => Self::beside_twin().run(kernel),
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a level of this set exists only if the processor has it.
            Set::Neon => unsafe { Neon::<false>::assume().vectorize(kernel) },
        }
    }

    /// Runs a kernel that multiplies bytes.
    #[inline]
    pub(crate) fn run_on_bytes<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level of these sets exists only if the processor has VNNI.
            Set::Avx512Vnni | Set::Avx512Bf16 | Set::Amx => unsafe {
                Avx512::<VNNI>::assume().vectorize(kernel)
            },
            #[cfg(target_arch = "aarch64")]
            Set::Neon => match Self::neon_dot() {
                Some(simd) => simd.vectorize(kernel),
                None => self.run(kernel),
            },
            _ => self.run(kernel),
        }
    }

    /// Runs a kernel that multiplies pairs of bf16.
    #[inline]
    pub(crate) fn run_on_pairs<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level of these sets exists only if the processor has BF16.
            Set::Avx512Bf16 | Set::Amx => unsafe { Avx512::<BF16>::assume().vectorize(kernel) },
            #[cfg(target_arch = "x86_64")]
            Set::AmxTwin if Self::beside_twin() != self => Self::beside_twin().run_on_pairs(kernel),
            _ => self.run(kernel),
        }
    }

    /// Runs a kernel that multiplies tiles.
    ///
    /// # Panics
    /// If the set has no tiles.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn run_on_tiles<K: amx::TileKernel>(self, kernel: K) {
        match self.0 {
            // SAFETY: a level of this set exists only if the processor has it and the system allows its use.
            Set::Amx => unsafe {
                Avx512::<BF16>::assume().vectorize(amx::OnHardware::new(kernel));
            },
            Set::AmxTwin => match Self::avx512_bf16() {
                Some(simd) => simd.vectorize(amx::OnTwin(kernel)),
                None => amx::OnTwin(kernel).run(Portable),
            },
            _ => unreachable!("{self} has no tiles"),
        }
    }

    /// Whether the set multiplies tiles, so that [`Element::Split`] is faster than [`Element::F32`].
    #[must_use]
    pub fn has_tiles(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx | Set::AmxTwin => true,
            _ => false,
        }
    }

    /// The range of bytes whose sums of products do not overflow.
    pub(crate) fn room(self) -> Room {
        // Sums in tiles have 32 bits, so any bytes fit.
        if self.has_tiles() { Room::Any } else { self.run_on_bytes(Ask) }
    }

    /// Whether products of pairs of bf16 are faster than those in f32. Inputs are then rounded to bf16 too.
    pub(crate) fn has_pairs(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 | Set::Amx | Set::AmxTwin => true,
            _ => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Set::Amx => "amx",
            #[cfg(target_arch = "x86_64")]
            Set::AmxTwin => "amx-twin",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
        })
    }
}
