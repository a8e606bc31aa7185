//! Several replicas of one tower, which share out the rows of a batch.
//!
//! The threads of one pass meet after every product, and the more of them there are, the more of their time is
//! waiting. Replicas never meet before the end of a pass. They share the weights, and a row's result is the same
//! bits whichever of them computes it.

use std::{panic::resume_unwind, thread};

use super::{Pass, Resident, Tap, Tower, TowerError, runtime::Runtime};
use crate::embedding::Embedding;

/// A tower on each of the runtimes, as one.
pub(super) fn replicated<I: Send + Sync + 'static>(
    tower: Box<dyn Resident<Input = I>>,
    runtimes: &[Runtime],
) -> Box<dyn Tower<Input = I>> {
    match runtimes {
        [] | [_] => tower,
        several => Box::new(Replicated(several.iter().map(|runtime| tower.on(runtime)).collect())),
    }
}

/// Equal towers, one at least, each with threads of its own.
struct Replicated<T>(Vec<T>);

impl<T: Tower<Input: Sync>> Replicated<T> {
    /// Gives each replica an equal share of the rows, in order. Where one fails or panics, all fail alike.
    ///
    /// * `pass`: of a share, with the place of its first row
    fn share_out(
        &mut self,
        rows: &[T::Input],
        pass: impl Fn(&mut T, &[T::Input], usize) -> Result<Vec<Embedding>, TowerError> + Sync,
    ) -> Result<Vec<Embedding>, TowerError> {
        let (count, pass) = (self.0.len(), &pass);
        let start = |index: usize| index * rows.len() / count;
        // From the last one on: a lone row is its share.
        let mut shares = self.0.iter_mut().enumerate().rev().filter_map(|(index, tower)| {
            let (start, end) = (start(index), start(index + 1));
            (start < end).then_some(move || pass(tower, &rows[start..end], start))
        });
        let Some(mut last) = shares.next() else { return Ok(Vec::new()) };
        thread::scope(|scope| {
            let others: Vec<_> = shares.map(|share| scope.spawn(share)).collect();
            let last = last();
            let mut results = Vec::with_capacity(rows.len());
            for other in others.into_iter().rev() {
                results.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            results.extend(last?);
            Ok(results)
        })
    }
}

impl<T: Tower<Input: Sync>> Tower for Replicated<T> {
    type Input = T::Input;

    fn usual_row(&self) -> Option<T::Input> {
        self.0[0].usual_row()
    }

    /// The pass has run when this returns, because the replicas run at the same time.
    fn begin(&mut self, rows: &[T::Input], taps: &[Tap]) -> Result<Pass, TowerError> {
        if taps.len() != rows.len() {
            let message = format!("{} outputs for {} rows", taps.len(), rows.len());
            return Err(TowerError::Shape(message));
        }
        let pass = |tower: &mut T, rows: &[T::Input], start: usize| {
            tower.tapped(rows, &taps[start..start + rows.len()])
        };
        self.share_out(rows, pass).map(Pass::done)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Gives its own number and the row; fails on 100, panics on 200.
    struct Numbered(u8);

    impl Tower for Numbered {
        type Input = u8;

        fn begin(&mut self, rows: &[u8], taps: &[Tap]) -> Result<Pass, TowerError> {
            assert!(!rows.contains(&200), "a row that no tower takes");
            if rows.contains(&100) {
                return Err(TowerError::OutOfMemory);
            }
            let numbered =
                rows.iter().map(|&row| Embedding::new(vec![f32::from(self.0), f32::from(row)]));
            Pass::pooled(taps, || Ok(numbered.collect()))
        }
    }

    fn three() -> Replicated<Numbered> {
        Replicated((0..3).map(Numbered).collect())
    }

    #[test]
    fn rows_are_shared_out_in_order() {
        for len in 0..20 {
            let rows: Vec<u8> = (0..len).collect();
            let results = three().forward(&rows).expect("good rows");
            let order: Vec<_> = results.iter().map(|result| result.as_slice()[1] as u8).collect();
            assert_eq!(order, rows);
            let share =
                |tower| results.iter().filter(|result| result.as_slice()[0] == tower).count();
            let shares = [share(0.0), share(1.0), share(2.0)];
            assert!(shares.iter().max() <= shares.iter().min().map(|least| least + 1).as_ref());
        }
    }

    #[test]
    fn a_failure_of_one_is_a_failure_of_all() {
        for bad in 0..5 {
            let mut rows = [1, 2, 3, 4, 5];
            rows[bad] = 100;
            assert!(matches!(three().forward(&rows), Err(TowerError::OutOfMemory)));
            rows[bad] = 200;
            let panicked = catch_unwind(AssertUnwindSafe(|| three().forward(&rows)));
            assert!(panicked.is_err(), "whoever halves the batch must see it");
        }
    }

    #[test]
    fn a_tap_goes_with_its_row() {
        let rows = [1, 2, 3, 4];
        assert!(three().tapped(&rows, &[Tap::Pooled; 3]).is_err());
        assert!(three().tapped(&rows, &[Tap::Pooled; 4]).is_ok());
        let taps = [Tap::Pooled, Tap::Pooled, Tap::Pooled, Tap::LastHiddenState];
        assert!(three().tapped(&rows, &taps).is_err(), "this tower has none");
    }
}
