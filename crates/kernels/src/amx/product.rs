//! Products of a layer with pairs of bf16, with values that are sums of two bf16, and with bytes.

use std::{marker::PhantomData, ops::Range};

use rayon::prelude::*;

use super::{
    BLOCK, FourBytes, Kind, Pairs, Split, Sums, Tile,
    blocks::{Block, Layer},
    inputs::Inputs,
};
use crate::{
    Columns, Epilogue, Level, QuantizedColumns,
    epilogue::Places,
    packed::TileKind,
    product::Tasks,
    quantized::{self, dequantize},
    simd::{Out, PANEL, Simd},
};

/// About as many multiply-adds take the time of one in f32, so a task has that many more.
const FASTER: usize = 8;

/// [`product`](crate::product()) with weights in tiles.
pub(crate) fn product(
    level: Level,
    x: &[f32],
    (weights, kind): (&Columns<'_>, TileKind),
    epilogue: &Epilogue<'_>,
    out: Out,
) {
    match kind {
        TileKind::Pairs => spread::<Pairs>(level, x, weights, epilogue, out),
        TileKind::Split => spread::<Split>(level, x, weights, epilogue, out),
    }
}

fn spread<K: Kind>(
    level: Level,
    x: &[f32],
    weights: &Columns<'_>,
    epilogue: &Epilogue<'_>,
    out: Out,
) {
    let depth = weights.packed.depth();
    let inputs = Inputs::pack::<K>(level, x, depth);
    let rows = inputs.rows();
    let layer = Floats::<K> { inputs, weights, epilogue, out, kind: PhantomData };
    // A pair has two inputs per word, and values that are sums take three products each.
    let words = depth * (2 * K::TILES - 1) / 2;
    each_task(level, &layer, rows, words);
}

/// Runs the tasks of a product.
fn each_task<L: Layer>(level: Level, layer: &L, rows: usize, words: usize) {
    let threads = rayon::current_num_threads();
    let tasks = Tasks::new((rows, BLOCK), words.div_ceil(FASTER), layer.columns(), threads);
    (0..tasks.count()).into_par_iter().with_max_len(1).for_each(|index| {
        let (rows, panels) = tasks.get(index);
        level.run_on_tiles(Block { layer, rows, panels });
    });
}

/// A layer of bf16, or of sums of two bf16.
struct Floats<'a, K> {
    inputs: Inputs,
    weights: &'a Columns<'a>,
    epilogue: &'a Epilogue<'a>,
    out: Out,
    kind: PhantomData<K>,
}

impl<K: Kind> Layer for Floats<'_, K> {
    type Kind = K;

    #[inline(always)]
    fn inputs(&self, row: usize) -> &[Tile] {
        self.inputs.tiles(row)
    }

    #[inline(always)]
    fn weights(&self, panel: usize) -> &[Tile] {
        self.weights.packed.tiles(panel)
    }

    #[inline(always)]
    fn columns(&self) -> &Range<usize> {
        &self.weights.columns
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        (places, panels): (&Places, [usize; 2]),
        row: usize,
        (sums, row_of_sums, column): (&Sums, usize, usize),
    ) {
        let [first, second] = panels.map(|panel| self.weights.packed.bias(panel));
        let bias = [simd.load_slice(first), simd.load_slice(&second[PANEL - S::LANES..])];
        let mut values = [simd.splat(0.0); 2];
        for (vector, value) in values.iter_mut().enumerate() {
            let sum = sums.floats(simd, row_of_sums, column + vector * S::LANES);
            *value = simd.add(sum, bias[vector]);
        }
        // SAFETY: the caller's promise.
        unsafe { places.finish(simd, self.epilogue, (self.out, row), [values]) };
    }
}

/// [`quantized_product`](crate::quantized_product()) with inputs as bytes in the order of tiles.
pub(crate) fn quantized_product(
    level: Level,
    inputs: quantized::Inputs,
    weights: &QuantizedColumns<'_>,
    epilogue: &Epilogue<'_>,
    out: Out,
) {
    let (rows, words) = (inputs.count(), weights.layer.depth().div_ceil(4));
    each_task(level, &Bytes { inputs, weights, epilogue, out }, rows, words);
}

struct Bytes<'a> {
    inputs: quantized::Inputs,
    weights: &'a QuantizedColumns<'a>,
    epilogue: &'a Epilogue<'a>,
    out: Out,
}

impl Layer for Bytes<'_> {
    type Kind = FourBytes;

    #[inline(always)]
    fn inputs(&self, row: usize) -> &[Tile] {
        self.inputs.tiles(row)
    }

    #[inline(always)]
    fn weights(&self, panel: usize) -> &[Tile] {
        self.weights.layer.tiles(panel)
    }

    #[inline(always)]
    fn columns(&self) -> &Range<usize> {
        &self.weights.columns
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        (places, panels): (&Places, [usize; 2]),
        row: usize,
        (sums, row_of_sums, column): (&Sums, usize, usize),
    ) {
        let mut words = [simd.splat_i32(0); 2];
        for (vector, words) in words.iter_mut().enumerate() {
            *words = sums.words(simd, row_of_sums, column + vector * S::LANES);
        }
        let factors = panels.map(|panel| &self.weights.layer.factors[panel]);
        let values = dequantize(simd, &[words], factors, self.inputs.meanings(row, 1));
        // SAFETY: the caller's promise.
        unsafe { places.finish(simd, self.epilogue, (self.out, row), values) };
    }
}
