//! A running `opes-mta`, as it is asked for its metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::listener::{FrontEnd, ListenerMetrics};
use super::next_hop::DeliveryMetrics;
use crate::config::{self, Config};
use crate::front::smtp::Stores;
use crate::group::{Group, ServerStanding};
use crate::instruments::Exposition;
use crate::processor::Processor;
use crate::relay::NextHop;
use crate::room::Budget;
use crate::spool::Moment;

/// What is asked about.
#[derive(Debug)]
pub struct Subject {
    /// Gone once the program ends, which waits for the groups.
    processor: Weak<Processor>,
    listeners: Vec<Arc<ListenerMetrics>>,
    proxied: Option<Proxied>,
}

/// What there is besides where `opes-mta` is an SMTP proxy.
#[derive(Debug)]
pub struct Proxied {
    /// Next hops; those with the same address count together, see [`NextHop::metrics`].
    pub next_hops: Vec<Arc<NextHop>>,
    /// Where messages wait.
    pub stores: Stores,
    /// What brings them to their next hops, if there is a spool.
    pub delivery: Option<Arc<DeliveryMetrics>>,
}

/// Octets of a series and its value, without names of the configuration.
const SERIES: usize = 128;

/// Octets of what stands once: what families are about, and what concerns no listener and no group.
const ONCE: usize = 24 * 1024;

/// Events that a group may be asked about: a proxy has as many replies (`Settings::offers`).
const EVENTS: usize = 10;

/// Octets of the text in the worst case, in which all that may happen has. Next hops are no matter of the
/// configuration: each takes 2 KiB.
pub fn longest_text(config: &Config) -> usize {
    let listener = |name: usize| 24 * (SERIES + name);
    let group = |group: &config::Group| {
        let servers = group.servers.iter().map(|server| server.to_string().len());
        let servers: usize = servers.map(|name| 12 * (SERIES + group.name.len() + name)).sum();
        (36 + 105 * EVENTS) * (SERIES + group.name.len()) + servers
    };
    let listeners: usize = config.listen.iter().map(|listen| listener(listen.name.len())).sum();
    let groups: usize = config.groups.iter().map(group).sum();
    ONCE + listeners.max(listener(SERIES)) + groups
}

impl Subject {
    /// A processor, and what leads to it.
    pub fn new(
        processor: &Arc<Processor>,
        listeners: Vec<Arc<ListenerMetrics>>,
        proxied: Option<Proxied>,
    ) -> Self {
        Self { processor: Arc::downgrade(processor), listeners, proxied }
    }

    /// All metrics as text.
    pub fn exposition(self) -> Exposition {
        Exposition::new("opes_mta", self)
    }
}

impl Collector for Subject {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { encoder, octets: Unit::Other("octets".to_owned()) };
        families.build()?;
        families.listeners(&self.listeners)?;
        if let Some(processor) = self.processor.upgrade() {
            families.budgets(&processor)?;
            let groups = 0..processor.config().groups.len();
            let groups: Vec<_> = groups.filter_map(|at| processor.group(at)).collect();
            families.groups(&groups)?;
            families.servers(&groups)?;
        }
        match &self.proxied {
            Some(proxied) => families.proxied(proxied),
            None => Ok(()),
        }
    }
}

/// A group, and how it is configured.
type Known<'a> = (&'a config::Group, &'a Group);

/// Families of metrics, on their way to the text.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    octets: Unit,
}

impl Families<'_> {
    fn build(&mut self) -> fmt::Result {
        let info = MetricType::Info;
        let mut build = self.encoder.encode_descriptor("build", "The program", None, info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn listeners(&mut self, listeners: &[Arc<ListenerMetrics>]) -> fmt::Result {
        let all = || listeners.iter().map(|each| &**each);
        let labels = |each: &ListenerMetrics| {
            [("front_end", each.front_end.name().to_owned()), ("listener", each.name.clone())]
        };
        let help = "Connections of mail servers and clients that are served";
        let open = all().map(|each| (labels(each), each.open_connections()));
        self.gauges("open_connections", help, None, open)?;
        let help = "Connections that were accepted, with those that were refused then";
        let connections = all().map(|each| (labels(each), &each.connections));
        self.counters("connections", help, None, connections)?;
        let help = "Connections beyond [limits] connections";
        let refused = all().map(|each| (labels(each), &each.too_many));
        self.counters("refused_connections", help, None, refused)?;

        let of_listener = |each: &ListenerMetrics| ("listener", each.name.clone());
        let help = "Messages that are done with, by what became of them: decision in the log";
        let messages = all().flat_map(|each| {
            let decisions = each.messages.iter();
            decisions.map(move |(decision, count)| {
                ([of_listener(each), ("decision", decision.name().to_owned())], count)
            })
        });
        self.counters("messages", help, None, messages)?;
        let help = "Clients that were refused as such, at CONNECT or HELO";
        let clients = all().flat_map(|each| {
            let decisions = each.refused_clients.iter();
            decisions.map(move |(decision, count)| {
                ([of_listener(each), ("decision", decision.name().to_owned())], count)
            })
        });
        self.counters("refused_clients", help, None, clients)?;

        let proxies = || all().filter(|each| each.front_end == FrontEnd::Smtp);
        if proxies().next().is_some() {
            let help = "New messages of services that the spool has taken";
            let notifications = proxies().map(|each| ([of_listener(each)], &each.notifications));
            self.counters("notifications", help, None, notifications)?;
        }
        let milters = || all().filter(|each| each.front_end == FrontEnd::Milter);
        if milters().next().is_none() {
            return Ok(());
        }
        let help = "Times that a mail server was told that its message is being worked on";
        let progress = milters().map(|each| ([of_listener(each)], &each.progress));
        self.counters("milter_progress", help, None, progress)?;
        let help = "What mail servers were told to do to messages and their envelopes";
        let modifications = milters().flat_map(|each| {
            let actions = each.modifications.iter();
            actions.map(move |(action, count)| {
                ([of_listener(each), ("action", (*action).to_owned())], count)
            })
        });
        self.counters("milter_modifications", help, None, modifications)
    }

    fn budgets(&mut self, processor: &Processor) -> fmt::Result {
        let budgets = [
            (
                "content",
                "Octets in memory of messages that are worked on, and of what servers make of them",
                "The most that may be ([limits] content-octets)",
                processor.content(),
            ),
            (
                "disk",
                "Octets of messages in temporary files",
                "The most that may be ([limits] disk-octets)",
                processor.temporary().budget(),
            ),
            (
                "shadow",
                "Octets of what waits for groups that only watch",
                "The most that may be ([limits] shadow-octets)",
                processor.shadow_content(),
            ),
        ];
        for (name, used, limit, budget) in budgets {
            self.share(name, (used, Budget::used(budget)), (limit, Budget::most(budget)))?;
        }
        Ok(())
    }

    /// Series of an event and an outcome that never came are left out, since they are many.
    fn groups(&mut self, groups: &[Known<'_>]) -> fmt::Result {
        let all = || groups.iter().map(|(settings, group)| (settings, group.metrics()));
        let name = "event_duration";
        let help = "What events waited for their groups, by outcome; watched: until they were \
                    sent; reused: an earlier answer held; failed: the failure policy decided";
        let (unit, histogram) = (Some(&Unit::Seconds), MetricType::Histogram);
        let mut durations = self.encoder.encode_descriptor(name, help, unit, histogram)?;
        for (settings, metrics) in all() {
            for (event, outcomes) in metrics.events.iter() {
                for (outcome, waits) in outcomes.iter().filter(|(_, waits)| waits.count() > 0) {
                    let labels = [
                        ("group", settings.name.as_str()),
                        ("event", event.name()),
                        ("outcome", outcome.name()),
                    ];
                    waits.encode(durations.encode_family(&labels)?)?;
                }
            }
        }
        let of_group = |settings: &config::Group| ("group", settings.name.clone());
        let help = "Events that could not be adapted, by how far they had come and the policy \
                    that decided; away: no server was there; busy: none had room";
        let failures = all().flat_map(|(settings, metrics)| {
            let failures = metrics.failures.iter();
            failures.map(move |((stage, policy), count)| {
                let (stage, policy) = (stage.name().to_owned(), policy.to_string());
                ([of_group(settings), ("stage", stage), ("policy", policy)], count)
            })
        });
        self.counters("event_failures", help, None, failures)?;

        let help = "Times that an event had to wait until a server had room for it";
        let waited = all().map(|(settings, metrics)| ([of_group(settings)], &metrics.waited));
        self.counters("waited_events", help, None, waited)?;
        let help = "Events that should have been watched and that no server has seen";
        let missed = all().map(|(settings, metrics)| ([of_group(settings)], &metrics.unwatched));
        self.counters("unwatched_events", help, None, missed)?;

        let octets = self.octets.clone();
        let traffic =
            all().map(|(settings, metrics)| ([of_group(settings)], &metrics.traffic.sent));
        let help = "Octets of transactions that went to servers, without TLS";
        self.counters("sent", help, Some(&octets), traffic)?;
        let traffic =
            all().map(|(settings, metrics)| ([of_group(settings)], &metrics.traffic.received));
        let help = "Octets of transactions that came from servers, without TLS";
        self.counters("received", help, Some(&octets), traffic)?;
        let traffic =
            all().map(|(settings, metrics)| ([of_group(settings)], &metrics.traffic.preserved));
        let help = "Octets that answers referred to (DUY) and that did not travel back";
        self.counters("preserved", help, Some(&octets), traffic)?;

        let shadows = || all().filter(|(settings, _)| settings.shadow.is_some());
        if shadows().next().is_none() {
            return Ok(());
        }
        let help = "Messages that a group has watched, by what would have become of them";
        let messages = shadows().flat_map(|(settings, metrics)| {
            let decisions = metrics.shadow_messages.iter();
            decisions.map(move |(decision, count)| {
                ([of_group(settings), ("decision", decision.name().to_owned())], count)
            })
        });
        self.counters("shadow_messages", help, None, messages)?;
        let help = "Dialogs of which a group that watches has not seen all: it was too slow";
        let missed =
            shadows().map(|(settings, metrics)| ([of_group(settings)], &metrics.shadow_missed));
        self.counters("shadow_missed_dialogs", help, None, missed)
    }

    fn servers(&mut self, groups: &[Known<'_>]) -> fmt::Result {
        let labels = |settings: &config::Group, server: usize| {
            let address = settings.servers.get(server).map(ToString::to_string);
            [("group", settings.name.clone()), ("server", address.unwrap_or_default())]
        };
        // How all of them are at one moment.
        let standings = groups.iter().flat_map(|(settings, group)| {
            let standings = group.servers().into_iter().enumerate();
            standings.map(move |(at, standing)| (labels(settings, at), standing))
        });
        let standings: Vec<_> = standings.collect();
        let now = |value: fn(&ServerStanding) -> usize| {
            let all = standings.iter();
            all.map(move |(labels, server)| (labels.clone(), value(server) as u64))
        };
        let help = "1 if the server gets events: it is connected, and not ejected";
        self.gauges("server_up", help, None, now(|server| usize::from(server.is_up)))?;
        let help = "Connections that take new dialogs";
        self.gauges("server_connections", help, None, now(|server| server.connections))?;
        let help = "SMTP dialogs that are open there";
        self.gauges("server_open_dialogs", help, None, now(|server| server.dialogs))?;
        let help = "Events that are open there";
        self.gauges("server_open_transactions", help, None, now(|server| server.events))?;
        let all = || {
            groups.iter().flat_map(|(settings, group)| {
                let servers = group.metrics().servers().enumerate();
                servers.map(move |(at, server)| (labels(settings, at), server))
            })
        };
        let help = "Attempts at events, by their result; failed: by the services, or the answer \
                    was void";
        let attempts = all().flat_map(|([group, server], metrics)| {
            let results = metrics.attempts.iter();
            results.map(move |(result, count)| {
                let result = ("result", result.name().to_owned());
                ([group.clone(), server.clone(), result], count)
            })
        });
        self.counters("server_attempts", help, None, attempts)?;
        let help = "Connections that take no new dialogs any more: lost, or drained by the server";
        let lost = all().flat_map(|([group, server], metrics)| {
            let reasons = metrics.lost.iter();
            reasons.map(move |(reason, count)| {
                let reason = ("reason", reason.name().to_owned());
                ([group.clone(), server.clone(), reason], count)
            })
        });
        self.counters("server_lost_connections", help, None, lost)?;
        let help = "Times that a server was left alone: too many failures, or it can't be reached";
        let ejections = all().map(|(labels, metrics)| (labels, &metrics.ejections));
        self.counters("server_ejections", help, None, ejections)
    }

    fn proxied(&mut self, proxied: &Proxied) -> fmt::Result {
        let named = proxied.next_hops.iter().map(|hop| (hop.address.to_string(), &*hop.metrics));
        let hops: BTreeMap<String, _> = named.collect();
        let of_hop = |name: &String| ("next_hop", name.clone());
        let open = hops.iter().map(|(name, metrics)| {
            ([of_hop(name)], u64::try_from(metrics.open.get()).unwrap_or(0))
        });
        self.gauges("next_hop_open_connections", "Connections to the next hop", None, open)?;
        let help = "Connections to the next hop, by whether it has greeted";
        let connections = hops.iter().flat_map(|(name, metrics)| {
            let results = [("established", &metrics.established), ("failed", &metrics.failed)];
            results.map(|(result, count)| ([of_hop(name), ("result", result.to_owned())], count))
        });
        self.counters("next_hop_connections", help, None, connections)?;
        let help = "Replies of the next hop, by the first digit of their codes";
        let replies = hops.iter().flat_map(|(name, metrics)| {
            let classes = metrics.replies();
            classes.map(|(class, count)| ([of_hop(name), ("class", class.to_owned())], count))
        });
        self.counters("next_hop_replies", help, None, replies)?;
        self.stores(&proxied.stores)?;
        let Some(delivery) = &proxied.delivery else { return Ok(()) };
        let help = "Attempts to deliver mail from the spool, by what they came to for a recipient";
        let results = delivery
            .results
            .iter()
            .map(|(result, count)| ([("result", result.name().to_owned())], count));
        self.counters("deliveries", help, None, results)?;
        let help = "Reports to senders on mail from the spool (RFC 3464)";
        let counter = MetricType::Counter;
        let reports = self.encoder.encode_descriptor("delivery_reports", help, None, counter)?;
        delivery.reports.encode(reports)
    }

    fn stores(&mut self, stores: &Stores) -> fmt::Result {
        if let Some(spool) = &stores.spool {
            let (standing, (share, limits)) = (spool.standing(), spool.usage());
            let help = "Entries of the spool: to be delivered (queued), being delivered (active), \
                        waiting for somebody (held)";
            let states =
                [("queued", standing.queued), ("active", standing.active), ("held", standing.held)];
            let states =
                states.map(|(state, entries)| ([("state", state.to_owned())], entries as u64));
            self.gauges("spool_entries", help, None, states)?;
            self.gauge("spool_entries_limit", "The most that there may be", None, limits.entries)?;
            let used = ("Octets of messages in the spool", share.octets);
            self.share("spool", used, ("The most that may be", limits.octets))?;
            let now = Moment::from(SystemTime::now());
            let age = standing.oldest.map_or(0, |oldest| now.since(oldest).as_secs());
            let help = "Age of the oldest entry that is to be delivered; 0 if there is none";
            self.gauge("spool_oldest", help, Some(&Unit::Seconds), age)?;
        }
        if let Some(quarantine) = &stores.quarantine {
            let (share, limits) = quarantine.usage();
            let help = "Messages in the quarantine; what commands beside this process remove \
                        counts for up to an hour";
            self.gauge("quarantine_entries", help, None, share.entries)?;
            let help = "The most that there may be";
            self.gauge("quarantine_entries_limit", help, None, limits.entries)?;
            let used = ("Octets of messages in the quarantine", share.octets);
            self.share("quarantine", used, ("The most that may be", limits.octets))?;
        }
        Ok(())
    }

    /// Octets that are used, and how many may be.
    fn share(&mut self, name: &str, used: (&str, u64), limit: (&str, u64)) -> fmt::Result {
        let octets = self.octets.clone();
        self.gauge(&format!("{name}_used"), used.0, Some(&octets), used.1)?;
        self.gauge(&format!("{name}_limit"), limit.0, Some(&octets), limit.1)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn gauges<const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        series: impl IntoIterator<Item = ([(&'static str, String); LABELS], u64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<'c, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        series: impl IntoIterator<Item = ([(&'static str, String); LABELS], &'c Counter)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, counter) in series {
            counter.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::front::smtp::{Introduce, Settings, Trust};
    use crate::quarantine::Quarantine;
    use crate::spool::{Limits, Spool};

    /// A proxy with all that there may be, whose next hop is a route too.
    fn settings(folder: &Path) -> Settings {
        let next_hop = || Arc::new(NextHop::new("127.0.0.1:25".parse().unwrap(), "mx"));
        let open = |name: &str| folder.join(name);
        let (spool, _) = Spool::open(&open("spool"), Limits::default()).unwrap();
        let (quarantine, _) = Quarantine::open(&open("kept"), Limits::default()).unwrap();
        Settings {
            placement: ocp_proto::smtp::Activation::Proxy,
            next_hop: next_hop(),
            tls: None,
            introduce: Introduce::Never,
            trust: Trust(Vec::new()),
            silence: Duration::from_secs(1),
            stores: Stores { quarantine: Some(quarantine), spool: Some(spool) },
            routes: vec![next_hop()],
        }
    }

    /// Names are the configuration's: whatever it says, and whatever happens, each series stands there once, on a
    /// line of its own, and all of them have the room that is counted for them.
    #[tokio::test]
    async fn each_series_is_told_once_whatever_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let group = |name: &str, rest: &str| {
            format!(
                "[[group]]\nname = '{name}'\nservices = [\"log\"]\n\
                 servers = [\"127.0.0.1:1\", \"unix:/nonexistent/ocp.sock\"]\n{rest}\n"
            )
        };
        let text = [
            "[[listen]]\nname = 'm\"x\\'\nmilter = \"inet:127.0.0.1:0\"\n".to_owned(),
            group("a\"b\\", ""),
            group("next", "shadow = true"),
            group("replies", "profile = \"reply\""),
        ];
        let config = Config::parse(&text.concat(), Path::new("test.toml")).unwrap();
        let longest = longest_text(&config);
        let settings = settings(folder.path());
        let processor = Processor::start(config, settings.offers());
        for at in 0..3 {
            let (_, group) = processor.group(at).unwrap();
            for (_, outcomes) in group.metrics().events.iter() {
                outcomes.iter().for_each(|(_, waits)| waits.observe(Duration::from_nanos(1)));
            }
        }
        let listeners = [("m\"x\\", FrontEnd::Milter), ("127.0.0.1:10025", FrontEnd::Smtp)];
        let listeners = listeners.map(|(name, kind)| Arc::new(ListenerMetrics::new(name, kind)));
        let proxied = Proxied {
            next_hops: [&settings.next_hop].into_iter().chain(&settings.routes).cloned().collect(),
            stores: settings.stores,
            delivery: Some(Arc::default()),
        };
        let subject = Subject::new(&processor, listeners.to_vec(), Some(proxied));
        let told = subject.exposition().text().unwrap();
        // There is one listener more than configured, and a next hop.
        let room = longest + 24 * 2 * SERIES + 2_048;
        assert!(told.len() < room && told.len() > room / 3, "{} of {room}", told.len());
        let (told, end) = told.split_at(told.len() - "# EOF\n".len());
        assert_eq!(end, "# EOF\n");
        let mut known = HashSet::new();
        for line in told.lines().filter(|line| !line.starts_with("# ")) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with("opes_mta_") && value.parse::<f64>().is_ok(), "{line}");
            assert!(known.insert(series), "{series} stands there twice");
        }
        for series in [
            "opes_mta_event_duration_seconds_count\
             {group=\"a\\\"b\\\\\",event=\"MESSAGE\",outcome=\"reused\"}",
            "opes_mta_messages_total{listener=\"m\\\"x\\\\\",decision=\"accept\"}",
            "opes_mta_server_up{group=\"replies\",server=\"unix:/nonexistent/ocp.sock\"}",
        ] {
            assert!(known.contains(series), "{series}: {known:#?}");
        }
    }
}
