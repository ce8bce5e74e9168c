//! Keeps what is recorded as metrics, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use ::metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// The metrics of one test: each value under its name and labels, `name{label=value}`. A histogram counts.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    values: Arc<Mutex<BTreeMap<String, f64>>>,
    described: Mutex<BTreeSet<String>>,
}

impl Recorded {
    /// Returns what `run` records.
    pub(crate) fn during(run: impl FnOnce()) -> Self {
        let recorded = Self::default();
        ::metrics::with_local_recorder(&recorded, run);
        recorded
    }

    /// Returns the last value under this name; `None` if none was recorded.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.values.lock().unwrap().get(name).copied()
    }

    /// Returns the names of the recorded metrics, without labels.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.values.lock().unwrap().keys().map(|key| key.split('{').next().unwrap().to_owned()).collect()
    }

    /// Returns the names of the described metrics.
    pub(crate) fn described(&self) -> BTreeSet<String> {
        self.described.lock().unwrap().clone()
    }

    fn describe(&self, key: &KeyName) {
        assert!(self.described.lock().unwrap().insert(key.as_str().to_owned()), "{} is described twice", key.as_str());
    }

    fn handle(&self, key: &Key) -> Arc<Handle> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let key =
            if labels.is_empty() { key.name().to_owned() } else { format!("{}{{{}}}", key.name(), labels.join(",")) };
        Arc::new(Handle { key, values: Arc::clone(&self.values) })
    }
}

struct Handle {
    key: String,
    values: Arc<Mutex<BTreeMap<String, f64>>>,
}

impl Handle {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = self.values.lock().unwrap();
        let value = values.entry(self.key.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for Handle {
    fn increment(&self, value: u64) {
        self.change(|before| before + super::metrics::as_gauge(value));
    }

    fn absolute(&self, value: u64) {
        self.change(|before| before.max(super::metrics::as_gauge(value)));
    }
}

impl GaugeFn for Handle {
    fn increment(&self, value: f64) {
        self.change(|before| before + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|before| before - value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl HistogramFn for Handle {
    fn record(&self, _value: f64) {
        self.change(|before| before + 1.0);
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _unit: Option<Unit>, _description: SharedString) {
        self.describe(&key);
    }

    fn describe_gauge(&self, key: KeyName, _unit: Option<Unit>, _description: SharedString) {
        self.describe(&key);
    }

    fn describe_histogram(&self, key: KeyName, _unit: Option<Unit>, _description: SharedString) {
        self.describe(&key);
    }

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.handle(key))
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.handle(key))
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.handle(key))
    }
}
