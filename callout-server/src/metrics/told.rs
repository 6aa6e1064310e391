//! What services tell of themselves ([`services::Measure`]).

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use services::{Measure, MeasureKind};

use super::Families;
use crate::server::Server;

impl Families<'_> {
    /// A family for each name, whichever services tell it.
    pub(super) fn told(&mut self, server: &Server) -> fmt::Result {
        let mut families: BTreeMap<&str, Vec<(&str, Measure)>> = BTreeMap::new();
        let current = server.current();
        for entry in current.config.router.iter() {
            for measure in entry.service.measures() {
                families.entry(measure.name).or_default().push((&entry.name, measure));
            }
        }
        for (name, told) in families {
            let Some((_, first)) = told.first() else { continue };
            let kind = match first.kind {
                MeasureKind::Counter => MetricType::Counter,
                MeasureKind::Gauge => MetricType::Gauge,
            };
            let mut family = self.encoder.encode_descriptor(name, first.help, None, kind)?;
            for (service, Measure { label, value, .. }) in &told {
                let labels: Vec<_> = [("service", *service)].into_iter().chain(*label).collect();
                let mut series = family.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => {
                        series.encode_counter::<NoLabelSet, _, u64>(value, None)?
                    }
                    _ => ConstGauge::new(*value).encode(series)?,
                }
            }
        }
        Ok(())
    }
}
