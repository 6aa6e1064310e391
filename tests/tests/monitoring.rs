//! The dashboards and the alerts of `deploy/` ask for what running programs tell, and for all of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;
use serde_json::Value;
use tempfile::tempdir;
use tests::http::get;
use tests::smtp::{Client, NextHop};
use tests::stores::Stores;
use tests::{CalloutServer, Milter, fixtures};
use yaml_rust2::{Yaml, YamlLoader};

fn deployed(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    std::fs::read_to_string(path).unwrap()
}

/// What Prometheus itself knows of whom it asks.
const OF_PROMETHEUS: (&str, [&str; 2]) = ("up", ["instance", "job"]);

/// The metrics that there are, and the labels of each; the families that they belong to.
struct Told {
    labels: BTreeMap<String, BTreeSet<String>>,
    families: BTreeSet<String>,
}

/// What a server tells after its first mail.
fn told_by_server() -> Told {
    let folder = tempdir().unwrap();
    let config = "[admin]\nlisten = \"127.0.0.1:0\"\n[services.spam-score]\nbypassable = true\n\
                  [services.scan]\nkind = \"virus-scan\"\n[services.scan.settings]\nclamd = \"unix:/nonexistent/clamd\"\n\
                  [services.odd]\nkind = \"plugin\"\n[services.odd.settings]\n\
                  address = \"unix:/nonexistent/plugin\"\ncommand = [\"/nonexistent\"]\n\
                  [services.odd.settings.grants]\nevents = [\"MESSAGE\"]\n";
    let mut server = CalloutServer::start(folder.path(), config, &[]);
    let admin = server.admin();
    let adapted = server.adapt([fixtures().join("plain.eml")]);
    assert_eq!(adapted.only()["decision"], "accept", "{}", adapted.stderr);
    Told::of(&get(&admin, "/metrics").body)
}

/// What `opes-mta smtp` tells after its first mail, and `opes-mta milter` besides.
fn told_by_mta() -> Told {
    let folder = tempdir().unwrap();
    let server = CalloutServer::start(folder.path(), "", &[]);
    let group = |name: &str, rest: &str| {
        let address = server.address();
        format!(
            "[[group]]\nname = \"{name}\"\nservers = [\"{address}\"]\nservices = [\"log\"]\n{rest}\n"
        )
    };
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\n";
    let config = format!("{admin}{}{}", group("now", ""), group("next", "shadow = true"));
    let hop = NextHop::start();
    let mut proxy = Stores::new(folder.path()).start_proxy("127.0.0.1:0", hop.port, &config);
    let reply =
        Client::greeted(proxy.port()).mail("a@a.example", &["b@b.example"], b"A: b\r\n\r\n");
    assert!(reply.starts_with("250 "), "{reply}");
    let mut milter = Milter::start(folder.path(), &config);
    let texts = [&mut proxy, &mut milter].map(|program| get(&program.admin(), "/metrics").body);
    Told::of(&texts.concat())
}

impl Told {
    fn of(text: &str) -> Self {
        let series = Regex::new(r"(?m)^(\w+)(?:\{(.*)\})? \S+$").unwrap();
        let label = Regex::new(r#"(\w+)=""#).unwrap();
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for series in series.captures_iter(text) {
            let of_series = series.get(2).map_or("", |labels| labels.as_str());
            let of_metric = labels.entry(series[1].to_owned()).or_default();
            of_metric.extend(label.captures_iter(of_series).map(|label| label[1].to_owned()));
        }
        let family = Regex::new(r"(?m)^# TYPE (\w+) ").unwrap();
        let families = family.captures_iter(text).map(|family| family[1].to_owned()).collect();
        Self { labels, families }
    }
}

/// What an expression asks for.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

/// Takes out of a text what matches, and returns what the only group of the pattern holds.
fn take(text: &mut String, pattern: &str) -> String {
    let pattern = Regex::new(pattern).unwrap();
    let held: Vec<String> = pattern.captures_iter(text).map(|found| found[1].to_owned()).collect();
    *text = pattern.replace_all(text, " ").into_owned();
    held.join(",")
}

impl Asked {
    /// The names in an expression of PromQL.
    fn by(expression: &str) -> Self {
        let mut text = expression.to_owned();
        let selectors = take(&mut text, r"\{([^}]*)\}");
        take(&mut text, r"\[([^\]]*)\]");
        let lists = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)";
        let lists = take(&mut text, lists);
        take(&mut text, r"\b(\w+)\s*\(");
        let name = Regex::new(r"\b[a-zA-Z_:]\w*").unwrap();
        let names = |text: &str| -> BTreeSet<String> {
            name.find_iter(text).map(|name| name.as_str().to_owned()).collect()
        };
        let matcher = Regex::new(r#"(\w+)\s*(?:=~|!~|!=|=)\s*""#).unwrap();
        let matched = matcher.captures_iter(&selectors).map(|label| label[1].to_owned());
        let mut metrics = names(&text);
        metrics.retain(|name| !["and", "or", "unless"].contains(&name.as_str()));
        Self { metrics, labels: matched.chain(names(&lists)).collect() }
    }

    /// Fails unless all of it is told.
    fn check(&self, told: &Told, expression: &str) {
        let (up, of_prometheus) = OF_PROMETHEUS;
        assert!(!self.metrics.is_empty(), "{expression} asks for nothing");
        let mut known = BTreeSet::from(of_prometheus.map(str::to_owned));
        for metric in self.metrics.iter().filter(|metric| *metric != up) {
            let labels = told.labels.get(metric);
            known.extend(labels.unwrap_or_else(|| panic!("no {metric}: {expression}")).clone());
        }
        let unknown: Vec<_> = self.labels.difference(&known).collect();
        assert!(unknown.is_empty(), "no labels {unknown:?}: {expression}");
    }
}

#[test]
fn expressions_are_understood() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let cases: [(&str, &[&str], &[&str]); 4] = [
        ("up{job=\"x\"} == 0", &["up"], &["job"]),
        (
            "histogram_quantile(0.99, sum by (le, a) (rate(x_bucket{b=~\"$b\"}[$__rate_interval])))",
            &["x_bucket"],
            &["le", "a", "b"],
        ),
        ("x{a=\"y\",b!=\"z\"}/y > 1e3", &["x", "y"], &["a", "b"]),
        ("sum(rate(x[5m])) / on () group_left () sum(y) or z", &["x", "y", "z"], &[]),
    ];
    for (expression, metrics, labels) in cases {
        let expected = Asked { metrics: names(metrics), labels: names(labels) };
        assert_eq!(Asked::by(expression), expected, "{expression}");
    }
}

#[test]
fn the_dashboard_shows_all_that_a_server_tells_and_nothing_else() {
    shows_all("callout-server", &told_by_server(), 15);
}

#[test]
fn the_dashboard_shows_all_that_opes_mta_tells_and_nothing_else() {
    shows_all("opes-mta", &told_by_mta(), 40);
}

/// The dashboard of a program shows all of these families, of which there are so many at least.
fn shows_all(program: &str, told: &Told, least: usize) {
    let dashboard = deployed(&format!("grafana/{program}.json"));
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let named = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    let mut shown = BTreeSet::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let asked = Asked::by(expression);
            asked.check(told, expression);
            let legend = target["legendFormat"].as_str().unwrap();
            let labels = named.captures_iter(legend).map(|name| name[1].to_owned()).collect();
            Asked { labels, metrics: asked.metrics.clone() }.check(told, legend);
            shown.extend(asked.metrics);
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let of_instance = variables.iter().find(|variable| variable["name"] == "instance").unwrap();
    let build = format!("{}_build_info", program.replace('-', "_"));
    assert_eq!(of_instance["query"], format!("label_values({build}, instance)"));

    assert!(told.families.len() >= least, "{:?}", told.families);
    let suffixes = ["", "_total", "_info", "_bucket"];
    let is_shown = |family: &&String| {
        suffixes.iter().any(|suffix| shown.contains(&format!("{family}{suffix}")))
    };
    let hidden: Vec<_> = told.families.iter().filter(|family| !is_shown(family)).collect();
    assert!(hidden.is_empty(), "the dashboard does not show {hidden:?}");
}

#[test]
fn alerts_ask_for_what_programs_tell() {
    let mut told = told_by_server();
    told.labels.extend(told_by_mta().labels);
    let rules = YamlLoader::load_from_str(&deployed("prometheus/alerts.yml")).unwrap();
    let groups = rules[0]["groups"].as_vec().unwrap();
    let rules: Vec<&Yaml> =
        groups.iter().flat_map(|group| group["rules"].as_vec().unwrap()).collect();
    assert!(rules.len() >= 15, "{rules:?}");
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len(), "each alert has a name of its own");
    let named = Regex::new(r"\$labels\.(\w+)").unwrap();
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let asked = Asked::by(expression);
        asked.check(&told, expression);
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()));
        let known = |label: &str| label == "instance" || asked.labels.contains(label);
        for text in ["summary", "description"] {
            let text = rule["annotations"][text].as_str().unwrap();
            for label in named.captures_iter(text) {
                assert!(known(&label[1]), "{} is not there: {text}", &label[1]);
            }
        }
    }
}
