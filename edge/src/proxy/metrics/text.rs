//! The exposition formats: families with HELP and TYPE, samples with escaped labels.

use std::fmt::{Display, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    #[default]
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// What a scraper asks for in its Accept field.
    pub fn of_accept(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    Counter,
    Gauge,
    Histogram,
}

/// A page in the making. Families must not be mixed: all samples of one follow its [`Text::family`].
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    format: Format,
    name: String,
    /// What samples of the family end in: `_total` for counters.
    ending: &'static str,
}

impl Text {
    pub fn new(format: Format) -> Self {
        Self { format, ..Self::default() }
    }

    /// Begins a family. The name of a counter is given without `_total`.
    pub fn family(&mut self, name: &str, metric: MetricType, help: &str) {
        let (kind, ending) = match metric {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Gauge => ("gauge", ""),
            MetricType::Histogram => ("histogram", ""),
        };
        self.name.clear();
        self.name.push_str(name);
        self.ending = ending;
        // OpenMetrics names the family, the older format the samples.
        let ending = if self.format == Format::OpenMetrics { "" } else { ending };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string does not fail.
        let _ = write!(self.out, "# HELP {name}{ending} {help}\n# TYPE {name}{ending} {kind}\n");
    }

    pub fn sample(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.sample_of(self.ending, labels, value);
    }

    /// A sample of a histogram: `_bucket`, `_sum`, `_count`.
    pub fn sample_of(&mut self, ending: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.out.push_str(&self.name);
        self.out.push_str(ending);
        for (place, (name, text)) in labels.iter().enumerate() {
            self.out.push(if place == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            let _ = write!(Escaping(&mut self.out), "{text}");
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}
