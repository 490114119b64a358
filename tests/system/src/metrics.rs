//! Reads the figures that a process serves as Prometheus text.

/// The figures of one moment.
#[derive(Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Asks for them at a base URL; `None` if nobody answers.
    pub fn of(http: &str) -> Option<Self> {
        let mut response = ureq::get(format!("{http}/metrics")).call().ok()?;
        response.body_mut().read_to_string().ok().map(Self)
    }

    /// The sum of a metric over its labels. What stands behind the name narrows it down, as in `name{stage="locate"`.
    ///
    /// # Panics
    ///
    /// If there is no such metric.
    pub fn sum(&self, name: &str) -> u64 {
        let values = self.rows(name);
        assert!(!values.is_empty(), "no metric {name} in:\n{}", self.0);
        values.into_iter().sum()
    }

    /// The values that [`Self::sum`] adds, one for each set of labels.
    pub fn rows(&self, name: &str) -> Vec<u64> {
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let is_whole = name.contains('{') || rest.starts_with(['{', ' ']);
            rest.rsplit(' ').next().filter(|_| is_whole)?.parse::<u64>().ok()
        };
        self.0.lines().filter_map(value).collect()
    }
}
