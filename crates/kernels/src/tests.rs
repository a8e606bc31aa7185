use half::{bf16, f16};
use proptest::prelude::*;

use crate::{
    Activation, Choice, Element, Epilogue, Level, Packed, Packer, Residual, Rows, Shape, activate,
    attention, layer_norm, product, softmax_row,
};

/// Pseudorandom values in -1..1, the same on every run.
pub(crate) fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn erf(x: f64) -> f64 {
    // The series is used if it converges fast, otherwise the continued fraction of the complement.
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let a = x.abs();
    let fraction = (1..=60).rev().fold(0.0, |rest, n| f64::from(n) / 2.0 / (a + rest));
    let complement = (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + fraction);
    (1.0 - complement).copysign(x)
}

pub(crate) fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// Every set that can be tested here: those of the processor, and the twin of tiles.
pub(crate) fn levels() -> Vec<Level> {
    let twin = Level::choose(Choice::AmxTwin).ok();
    Level::available().into_iter().chain(twin).collect()
}

/// A layer of random shape, its input, activation and residual.
#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    depth: usize,
    columns: usize,
    part: std::ops::Range<usize>,
    /// Where the weights are cut for packing.
    cut: usize,
    element: Element,
    activation: Activation,
    /// Rows of the residual; 0 for none.
    residual: usize,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let depth = prop_oneof![1..40usize, 380..390usize, 766..772usize, 1150..1155usize];
    let rows = prop_oneof![1..30usize, 214..220usize, 430..436usize];
    let element = prop_oneof![
        Just(Element::F32),
        Just(Element::F16),
        Just(Element::Bf16),
        Just(Element::Split),
    ];
    let activation = prop_oneof![
        Just(Activation::None),
        Just(Activation::GeluTanh),
        Just(Activation::GeluErf),
        Just(Activation::QuickGelu),
    ];
    (rows, depth, 1..70usize, element, activation, 0..3usize, any::<u64>()).prop_map(
        |(rows, depth, columns, element, activation, residual, seed)| {
            let start = seed as usize % columns;
            let end = columns - (seed >> 8) as usize % (columns - start);
            let cut = (seed >> 16) as usize % (columns + 1);
            // No residual row, one for all rows, or one for each row.
            let residual = [0, 1, rows][residual];
            let part = start..end;
            Case { rows, depth, columns, part, cut, element, activation, residual, seed }
        },
    )
}

impl Case {
    fn x(&self) -> Vec<f32> {
        values(self.rows * self.depth, self.seed ^ 1)
    }

    fn packed(&self) -> Packed {
        let weights = values(self.columns * self.depth, self.seed ^ 2);
        let (first, second) = weights.split_at(self.cut * self.depth);
        let mut packer = Packer::new(self.columns, self.depth, self.element);
        packer.push(first);
        packer.push(second);
        packer.set_bias(&values(self.columns, self.seed ^ 3));
        packer.finish()
    }

    fn residual(&self) -> Vec<f32> {
        values(self.residual * self.part.len(), self.seed ^ 4)
    }

    fn run(&self, level: Level, x: &[f32], residual: &[f32]) -> Vec<f32> {
        let residual = (!residual.is_empty()).then_some(Residual(residual));
        let epilogue = Epilogue { activation: self.activation, residual };
        product(level, x, &self.packed().part(self.part.clone()), epilogue)
    }

    /// The expected result in f64, from the stored weights and the rounded input.
    fn expected(&self, level: Level) -> Vec<f64> {
        let weights = values(self.columns * self.depth, self.seed ^ 2);
        let (residual, bias) = (self.residual(), values(self.columns, self.seed ^ 3));
        let narrow = |value: f32| bf16::from_f32(value).to_f32();
        let multiply = |x: f32, w: f32| -> f64 {
            // The larger part of each value, and the sum of both parts.
            let [large, small] = [x, w].map(narrow);
            let [x_, w_] = [(x, large), (w, small)]
                .map(|(value, large)| f64::from(large) + f64::from(narrow(value - large)));
            let (large_x, large_w) = (f64::from(large), f64::from(small));
            match self.element {
                Element::F32 => f64::from(x) * f64::from(w),
                Element::F16 => f64::from(x) * f16::from_f32(w).to_f64(),
                Element::Bf16 if level.has_pairs() => large_x * large_w,
                Element::Bf16 => f64::from(x) * large_w,
                // The product of the smaller parts is left out.
                Element::Split if level.has_tiles() => x_ * w_ - (x_ - large_x) * (w_ - large_w),
                Element::Split => f64::from(x) * w_,
            }
        };
        let mut y = Vec::new();
        for (row, x) in self.x().chunks_exact(self.depth).enumerate() {
            for column in self.part.clone() {
                let weights = &weights[column * self.depth..][..self.depth];
                let sum: f64 = x.iter().zip(weights).map(|(&x, &w)| multiply(x, w)).sum();
                let y_ = activated(self.activation, sum + f64::from(bias[column]));
                let at = row * self.part.len() + column - self.part.start;
                y.push(
                    y_ + residual.get(at % residual.len().max(1)).map_or(0.0, |&r| f64::from(r)),
                );
            }
        }
        y
    }
}

/// A sum of 1,155 products reaches 40, where a rounding error is at most 2e-6. The errors cancel partly.
const TOLERANCE: f64 = 1e-4;

pub(crate) fn worst(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - b).abs()).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_product_equals_itself_in_f64_at_every_level(case in cases()) {
        for level in levels() {
            let y = case.run(level, &case.x(), &case.residual());
            let worst = worst(&y, &case.expected(level));
            prop_assert!(worst < TOLERANCE, "{level}: {worst:e}");
        }
    }

    #[test]
    fn every_level_agrees_with_its_portable_twin(case in cases()) {
        let portable = Level::choose(Choice::Portable).expect("everywhere");
        // The values are exact in bf16.
        let x: Vec<_> = case.x().into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
        let twin = case.run(portable, &x, &case.residual());
        let twin: Vec<f64> = twin.into_iter().map(f64::from).collect();
        for level in levels() {
            let worst = worst(&case.run(level, &x, &case.residual()), &twin);
            prop_assert!(worst < TOLERANCE, "{level}: {worst:e}");
        }
    }

    #[test]
    fn a_row_depends_on_no_other_and_on_no_thread(case in cases(), threads in 1..4usize) {
        let (x, residual) = (case.x(), case.residual());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        for level in levels() {
            let y = pool.install(|| case.run(level, &x, &residual));
            let row = case.rows / 2;
            let width = case.part.len();
            let residual = match case.residual {
                0 | 1 => &residual[..],
                _ => &residual[row * width..][..width],
            };
            let alone = case.run(level, &x[row * case.depth..][..case.depth], residual);
            prop_assert_eq!(&y[row * width..][..width], &alone[..]);
        }
    }

    #[test]
    fn a_softmax_equals_itself_in_f64(count in 1..200usize, scale in 0.1..60f32, seed: u64) {
        let row: Vec<f32> = values(count, seed).iter().map(|value| value * scale).collect();
        let exps: Vec<f64> = row.iter().map(|&value| f64::from(value).exp()).collect();
        let expected: Vec<f64> = exps.iter().map(|value| value / exps.iter().sum::<f64>()).collect();
        for level in levels() {
            let mut row = row.clone();
            softmax_row(level, &mut row);
            prop_assert!(worst(&row, &expected) < 1e-5, "{level}");
        }
    }

    #[test]
    fn a_norm_equals_itself_in_f64(width in 1..200usize, mean in -1000f32..1000.0, seed: u64) {
        let x: Vec<f32> = values(3 * width, seed).iter().map(|value| value + mean).collect();
        let (weight, bias) = (values(width, seed ^ 1), values(width, seed ^ 2));
        let mut expected = Vec::new();
        for x in x.chunks_exact(width) {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
            let squares = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
            let factor = (squares / width as f64 + 1e-3).sqrt().recip();
            expected.extend((0..width).map(|at| {
                (f64::from(x[at]) - mean) * factor * f64::from(weight[at]) + f64::from(bias[at])
            }));
        }
        for level in levels() {
            let y = layer_norm(level, &x, (&weight, &bias), 1e-3);
            // Inputs of this magnitude are exact to 6e-5; the one-pass formula has an error of 0.1.
            let worst = worst(&y, &expected);
            prop_assert!(worst < 2e-3, "{level}: {worst:e}");
        }
    }
}

#[test]
fn gelu_equals_its_definition_from_end_to_end() {
    let x: Vec<f32> = (-40_000..=40_000).map(|step| step as f32 * 1e-3).collect();
    for activation in [Activation::GeluTanh, Activation::GeluErf, Activation::QuickGelu] {
        let expected: Vec<f64> = x.iter().map(|&x| activated(activation, x.into())).collect();
        for level in levels() {
            let mut y = x.clone();
            activate(level, activation, &mut y);
            let worst = worst(&y, &expected);
            assert!(worst < 2.5e-6, "{activation:?} {level}: {worst:e}");
        }
    }
}

#[test]
fn not_a_number_is_not_hidden() {
    for level in levels() {
        for activation in [Activation::GeluTanh, Activation::GeluErf, Activation::QuickGelu] {
            let mut x = vec![0.0; 19];
            (x[0], x[9], x[18]) = (f32::NAN, f32::INFINITY, f32::NAN);
            activate(level, activation, &mut x);
            assert!(x[0].is_nan() && x[9] == f32::INFINITY && x[18].is_nan(), "{level} {x:?}");
        }
        let mut row = vec![1.0; 19];
        row[3] = f32::NAN;
        softmax_row(level, &mut row);
        assert!(row.iter().all(|value| value.is_nan()), "{level} {row:?}");
    }
}

#[test]
fn nothing_comes_of_no_rows() {
    let mut packer = Packer::new(3, 2, Element::F32);
    packer.push(&[0.0; 6]);
    let packed = packer.finish();
    let level = Level::detect();
    assert!(product(level, &[], &packed.part(0..3), Epilogue::default()).is_empty());
    assert!(product(level, &[1.0; 4], &packed.part(1..1), Epilogue::default()).is_empty());
}

/// Attention over views of one fused product, as in a layer.
fn mixed(level: Level, element: Element, shape: Shape, fused: &[f32]) -> Vec<f32> {
    let width = shape.heads * shape.head_dim;
    let (rows, row_stride) = (shape.keys.max(shape.queries), 3 * width);
    let view = |part: usize| Rows {
        values: &fused[part * width..],
        batch_stride: rows * row_stride,
        row_stride,
    };
    attention(level, element, shape, [view(0), view(1), view(2)])
}

fn textbook(shape: Shape, fused: &[f32]) -> Vec<f64> {
    let (dim, width) = (shape.head_dim, shape.heads * shape.head_dim);
    let rows = shape.keys.max(shape.queries);
    let row = |part: usize, batch: usize, row: usize, head: usize| {
        let at = (batch * rows + row) * 3 * width + part * width + head * dim;
        fused[at..at + dim].iter().map(|&value| f64::from(value))
    };
    let mut y = vec![0.0; shape.batch * shape.queries * width];
    for batch in 0..shape.batch {
        for query in 0..shape.queries {
            for head in 0..shape.heads {
                let hidden = if shape.causal { shape.queries - 1 - query } else { 0 };
                let exps: Vec<f64> = (0..shape.keys - hidden)
                    .map(|key| {
                        let pairs = row(0, batch, query, head).zip(row(1, batch, key, head));
                        (pairs.map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = exps.iter().sum();
                let at = (batch * shape.queries + query) * width + head * dim;
                for (key, weight) in exps.iter().enumerate() {
                    for (y, v) in y[at..].iter_mut().zip(row(2, batch, key, head)) {
                        *y += weight / sum * v;
                    }
                }
            }
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn attention_equals_the_textbook_at_every_level(
        batch in 1..3usize,
        queries in prop_oneof![Just(1usize), 1..20usize, 100..110usize],
        keys in prop_oneof![1..40usize, 250..262usize, 510..530usize],
        heads in 1..4usize,
        head_dim in prop_oneof![1..20usize, Just(64usize), Just(72usize), Just(96usize)],
        causal: bool,
        scale in prop_oneof![Just(1f32), Just(12f32)],
        seed: u64,
    ) {
        let causal = causal && keys >= queries;
        let shape = Shape { batch, queries, keys, heads, head_dim, causal };
        let count = batch * keys.max(queries) * 3 * heads * head_dim;
        let fused: Vec<f32> = values(count, seed).iter().map(|value| value * scale).collect();
        let expected = textbook(shape, &fused);
        for level in levels() {
            let y = mixed(level, Element::F32, shape, &fused);
            let worst = worst(&y, &expected);
            // Scores of up to 12 * 12 * 10 have an error of 1e-4 already.
            prop_assert!(worst < 1e-5 * f64::from(scale * scale), "{level}: {worst:e}");
        }
        // If the values are exact in bf16, only the softmax is rounded, by up to 2^-9 of each weight.
        let fused: Vec<f32> = fused.iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
        let expected = textbook(shape, &fused);
        for level in levels() {
            let y = mixed(level, Element::Bf16, shape, &fused);
            let worst = worst(&y, &expected);
            let most = 4e-3 * f64::from(scale) + 1e-5 * f64::from(scale * scale);
            prop_assert!(worst < most, "{level}: {worst:e}");
        }
    }
}

#[test]
fn attention_to_what_is_no_number_gives_none() {
    for level in levels() {
        let shape = Shape { batch: 1, queries: 1, keys: 300, heads: 1, head_dim: 5, causal: false };
        let mut fused = vec![0.5; 300 * 15];
        fused[7 * 15 + 6] = f32::NAN;
        for element in [Element::F32, Element::Bf16] {
            let y = mixed(level, element, shape, &fused);
            assert!(y.iter().all(|value| value.is_nan()), "{level} {element:?}");
        }
    }
}

#[test]
#[cfg(target_arch = "aarch64")]
fn aarch64_takes_neon() {
    assert_eq!(Level::detect().to_string(), "neon");
}

#[test]
fn every_level_is_sound_and_is_what_its_name_chooses() {
    for level in Level::available() {
        let choice: Choice = level.to_string().parse().expect("a level");
        assert!(level.is_sound() && Level::choose(choice) == Ok(level), "{level}");
    }
}

#[test]
fn what_is_fastest_is_one_of_what_there_is() {
    let (sets, left_out) = Level::preferred();
    let available = Level::available();
    assert_eq!(sets.len() + left_out.len(), available.len());
    assert!(sets.iter().all(|level| available.contains(level)));
    assert_eq!(sets.first(), Some(&Level::detect()));
    assert!(available.contains(&Level::vectors()));
    // A second call does not measure again.
    assert_eq!(Level::preferred(), (sets, left_out));
}
