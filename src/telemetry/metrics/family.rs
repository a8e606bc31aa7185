//! Families of metrics: how each kind is made, and which of its series exist from the start.

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, core::Collector,
};

/// A label of a family.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) name: &'static str,
    pub(super) values: Values,
}

/// The values of a label that are known before they are first used.
#[derive(Debug)]
pub(super) enum Values {
    /// None.
    Unknown,
    /// The names of the routes, which the router announces.
    Routes,
    /// The names of the models, which the configuration lists.
    Models,
    /// These values.
    Listed(fn() -> Vec<&'static str>),
}

/// A route or a model whose series are to be created.
#[derive(Debug, Clone, Copy)]
pub(super) enum Announced<'n> {
    /// Neither: the series whose labels have listed values.
    Nothing,
    Route(&'n str),
    Model(&'n str),
}

/// The name, the help text, the labels and the buckets of a family.
#[derive(Debug)]
pub(super) struct Definition<'d> {
    pub(super) name: &'static str,
    /// The lines of a doc comment, joined.
    pub(super) help: &'static str,
    pub(super) labels: &'d [Label],
    /// The upper bounds of a histogram's buckets. Empty for other kinds.
    pub(super) buckets: &'d [f64],
}

impl Definition<'_> {
    /// Makes the family, registers it, and keeps a handle to it.
    #[expect(clippy::expect_used, reason = "all names and labels are constants")]
    pub(super) fn register<F: Family>(&self, registry: &Registry) -> F {
        let names: Vec<_> = self.labels.iter().map(|label| label.name).collect();
        let opts = Opts::new(self.name, self.help.trim());
        let made = F::make(opts, &names, self.buckets).expect("names and labels are valid");
        registry.register(Box::new(made.clone())).expect("every name is used once");
        made
    }
}

/// A kind of metric.
pub(super) trait Family: Collector + Clone + 'static {
    /// Makes a family without series.
    fn make(opts: Opts, labels: &[&str], buckets: &[f64]) -> Result<Self, prometheus::Error>;

    /// Creates the series with these values of its labels, at zero.
    fn create(&self, values: &[&str]);

    /// Creates the series that can be known now: those whose labels are all listed, or also have the announced
    /// route or model.
    fn announce(&self, labels: &[Label], announced: Announced<'_>) {
        let mut series = vec![Vec::new()];
        for label in labels {
            let values = match (&label.values, announced) {
                (Values::Listed(values), _) => values(),
                (Values::Routes, Announced::Route(name))
                | (Values::Models, Announced::Model(name)) => vec![name],
                _ => return,
            };
            let with = |head: &Vec<_>, value| head.iter().copied().chain([value]).collect();
            series = (series.iter())
                .flat_map(|head| values.iter().map(move |&value| with(head, value)))
                .collect();
        }
        for values in series {
            self.create(&values);
        }
    }
}

/// Kinds with one series, which exists as soon as the family does.
macro_rules! single {
    ($($kind:ident),+) => {$(
        impl Family for $kind {
            fn make(opts: Opts, _: &[&str], _: &[f64]) -> Result<Self, prometheus::Error> {
                Self::with_opts(opts)
            }

            fn create(&self, _: &[&str]) {}
        }
    )+};
}

/// Kinds with a series for each combination of the labels' values.
macro_rules! labelled {
    ($($kind:ident),+) => {$(
        impl Family for $kind {
            fn make(opts: Opts, labels: &[&str], _: &[f64]) -> Result<Self, prometheus::Error> {
                Self::new(opts, labels)
            }

            fn create(&self, values: &[&str]) {
                self.with_label_values(values);
            }
        }
    )+};
}

single!(IntCounter, IntGauge, Gauge);
labelled!(IntCounterVec, IntGaugeVec, GaugeVec);

impl Family for HistogramVec {
    fn make(opts: Opts, labels: &[&str], buckets: &[f64]) -> Result<Self, prometheus::Error> {
        Self::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels)
    }

    fn create(&self, values: &[&str]) {
        self.with_label_values(values);
    }
}

/// Declares the struct of all metrics. The doc comment of a field is also the help text of its family.
///
/// A label is `"name"` if its values are not known beforehand, and otherwise `"name" = values`: then its series
/// exist before they are first used.
macro_rules! metrics {
    (
        $(#[$outer:meta])*
        pub struct $Metrics:ident;
        $(
            $(#[doc = $help:literal])+
            $field:ident: $kind:ident = $name:literal
                $([$($label:literal $(= $values:expr)?),+])?
                $(in $buckets:expr)?;
        )+
    ) => {
        $(#[$outer])*
        pub struct $Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl $Metrics {
            /// Registers every family on a registry of their own.
            fn register() -> Self {
                let registry = Registry::new();
                Self {
                    $($field: Definition {
                        name: $name,
                        help: concat!($($help),+),
                        labels: metrics!(@labels $($($label $(= $values)?),+)?),
                        buckets: metrics!(@buckets $($buckets)?),
                    }.register(&registry),)+
                    registry,
                }
            }

            /// Creates the series that are known once this route or model is.
            fn announce(&self, announced: Announced<'_>) {
                $(self.$field.announce(
                    metrics!(@labels $($($label $(= $values)?),+)?),
                    announced,
                );)+
            }
        }
    };
    (@labels $($label:literal $(= $values:expr)?),*) => {
        &[$(Label { name: $label, values: metrics!(@values $($values)?) }),*]
    };
    (@values) => { Values::Unknown };
    (@values $values:expr) => { $values };
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { &$buckets };
}

pub(super) use metrics;
