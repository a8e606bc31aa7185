//! Faults on purpose, for tests of the whole process. Builds without debug assertions do not have them.
//!
//! `SIGLIP_FAILPOINT=KIND:EVERY[:TIMES]` makes each `EVERY`th forward pass of the process go wrong, in one
//! of these ways: `error`, `memory`, `panic`, `nan` (its first row), or `broken`, which stays wrong until the
//! towers are loaded again. `row` makes each pass go wrong that has a row with a mark: a text that says one
//! word three times, or an image whose first pixel is `(1, 2, 3)`. After `TIMES` faults, if given, all is
//! well. Several may be given, with commas between them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    batch::Parts,
    config::load::FAILPOINT_ENV,
    embedding::Embedding,
    model::{Pass, Tap, Tower, TowerError},
    preprocess::Pixels,
    tokenize::Tokens,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Memory,
    Panic,
    Nan,
    Broken,
    Row,
}

/// Whether a row is one that fails on purpose.
trait Marked {
    fn is_marked(&self) -> bool;
}

impl Marked for Tokens {
    fn is_marked(&self) -> bool {
        // The end token is counted.
        self.used > 3 && self.ids[0] == self.ids[1] && self.ids[1] == self.ids[2]
    }
}

impl Marked for Pixels {
    fn is_marked(&self) -> bool {
        self.data.starts_with(&[1, 2, 3])
    }
}

/// When and how passes go wrong. One for the process, so that towers which are loaded again go on counting.
#[derive(Debug)]
pub(super) struct Failpoint {
    kind: Kind,
    every: usize,
    times: usize,
    passes: AtomicUsize,
    faults: AtomicUsize,
}

impl Failpoint {
    /// What the environment asks for.
    pub(super) fn from_env() -> Option<Vec<Arc<Self>>> {
        let text = std::env::var(FAILPOINT_ENV).ok()?;
        let failpoints: Option<_> =
            text.split(',').map(|point| Self::parse(point).map(Arc::new)).collect();
        if failpoints.is_none() {
            tracing::error!(text, "{FAILPOINT_ENV} is not understood");
        }
        failpoints
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let kind = match parts.next()? {
            "error" => Kind::Error,
            "memory" => Kind::Memory,
            "panic" => Kind::Panic,
            "nan" => Kind::Nan,
            "broken" => Kind::Broken,
            "row" => Kind::Row,
            _ => return None,
        };
        let every = parts
            .next()
            .or((kind == Kind::Row).then_some("1"))?
            .parse()
            .ok()
            .filter(|&every| every > 0)?;
        let times = parts.next().map_or(Some(usize::MAX), |times| times.parse().ok())?;
        Some(Self { kind, every, times, passes: AtomicUsize::new(0), faults: AtomicUsize::new(0) })
    }

    /// Whether this pass goes wrong.
    fn strikes(&self) -> bool {
        let pass = 1 + self.passes.fetch_add(1, Ordering::Relaxed);
        pass.is_multiple_of(self.every) && self.faults.fetch_add(1, Ordering::Relaxed) < self.times
    }

    /// Towers that go wrong now and then.
    pub(super) fn arm(self: &Arc<Self>, towers: Parts) -> Parts {
        Parts {
            vision: towers.vision.map(|tower| {
                Box::new(Faulty { tower, point: Arc::clone(self), broken: false }) as Box<_>
            }),
            text: towers.text.map(|tower| {
                Box::new(Faulty { tower, point: Arc::clone(self), broken: false }) as Box<_>
            }),
            ..towers
        }
    }
}

struct Faulty<I> {
    tower: Box<dyn Tower<Input = I>>,
    point: Arc<Failpoint>,
    broken: bool,
}

impl<I: Marked + Send + 'static> Faulty<I> {
    fn pass(
        &mut self,
        rows: &[I],
        run: impl FnOnce(&mut dyn Tower<Input = I>) -> Result<Vec<Embedding>, TowerError>,
    ) -> Result<Vec<Embedding>, TowerError> {
        let fault = || TowerError::Device("a fault on purpose".into());
        if self.broken {
            return Err(fault());
        }
        let spared = self.point.kind == Kind::Row && !rows.iter().any(Marked::is_marked);
        if spared || !self.point.strikes() {
            return run(self.tower.as_mut());
        }
        match self.point.kind {
            Kind::Error | Kind::Row => Err(fault()),
            Kind::Memory => Err(TowerError::OutOfMemory),
            Kind::Panic => panic!("a fault on purpose"),
            Kind::Nan => run(self.tower.as_mut()).map(|mut rows| {
                if let Some(row) = rows.first_mut() {
                    *row = Embedding::new(vec![f32::NAN; row.dim()]);
                }
                rows
            }),
            Kind::Broken => {
                self.broken = true;
                Err(fault())
            }
        }
    }
}

impl<I: Marked + Send + 'static> Tower for Faulty<I> {
    type Input = I;

    fn usual_row(&self) -> Option<I> {
        self.tower.usual_row()
    }

    fn begin(&mut self, rows: &[I], taps: &[Tap]) -> Result<Pass, TowerError> {
        self.pass(rows, |tower| tower.tapped(rows, taps)).map(Pass::done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_as_they_are_ordered() {
        let point = Failpoint::parse("error:3:2").expect("understood");
        let struck: Vec<_> = (1..=12).filter(|_| point.strikes()).collect();
        assert_eq!(struck, [3, 6]);
        assert!(Failpoint::parse("row").is_some_and(|point| point.strikes()));
        for text in ["", "error", "error:0", "error:x", "other:3", "error:3:x"] {
            assert!(Failpoint::parse(text).is_none(), "{text}");
        }
    }
}
