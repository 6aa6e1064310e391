//! What becomes of one configuration where another takes its place.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::Config;

impl Config {
    /// The keys that a running server has once for all, and that are not the same in the next configuration.
    pub(crate) fn unchangeable(&self, next: &Self) -> Vec<&'static [&'static str]> {
        let keys: [(&[&str], bool); 6] = [
            (&["listen"], self.listen == next.listen),
            (&["admin", "listen"], self.admin.listen == next.admin.listen),
            (&["admin", "control"], self.admin.control == next.admin.control),
            // It is kept only where somebody may read it, so the first user and the last one count too.
            (&["history"], self.kept_history() == next.kept_history()),
            (&["log", "format"], self.log.format == next.log.format),
            (&["telemetry"], self.telemetry == next.telemetry),
        ];
        keys.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key).collect()
    }
}

/// What is not the same in two configurations: keys as `limits.connections`, services as `services.NAME`.
pub(crate) fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut changed = Vec::new();
    // They are in no table.
    if before.admin.users != after.admin.users {
        changed.push("admin.user".to_owned());
    }
    let (before, after) = (before.table(), after.table());
    let empty = Table::new();
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        match (before.get(name), after.get(name)) {
            (one, other) if one == other => {}
            (Some(Value::Table(_)) | None, Some(Value::Table(_)) | None) => {
                let within = |table: &Table| match table.get(name) {
                    Some(Value::Table(within)) => within.clone(),
                    _ => empty.clone(),
                };
                let (before, after) = (within(&before), within(&after));
                let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
                let differ = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
                changed.extend(differ.map(|key| format!("{name}.{key}")));
            }
            _ => changed.push(name.clone()),
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use services::{Password, Registry};

    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("test.toml"), &Registry::builtin()).unwrap()
    }

    #[test]
    fn what_changed_is_named() {
        let hash = Password::hash("secret").unwrap();
        let user = format!("[[admin.user]]\nname = \"ada\"\npassword = \"{hash}\"\n");
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("[limits]\nconnections = 1024\n", &[]),
            ("[limits]\nconnections = 7\nnesting = 8\n", &["limits.connections", "limits.nesting"]),
            ("[admin]\nlisten = \"127.0.0.1:1\"\n", &["admin.listen"]),
            (
                &format!("[admin]\nlisten = \"127.0.0.1:1\"\n{user}"),
                &["admin.user", "admin.listen"],
            ),
            ("recipients-differ = \"tempfail\"\n[[access]]\n", &["access", "recipients-differ"]),
            (
                "[services.log]\nsettings = { parts = true }\n[services.new]\nkind = \"log\"\n",
                &["services.log", "services.new"],
            ),
        ];
        for (text, keys) in cases {
            assert_eq!(changes(&parse(""), &parse(text)), keys, "{text}");
            assert_eq!(changes(&parse(text), &parse("")), keys, "{text}");
        }
    }

    #[test]
    fn what_can_t_change_is_named() {
        let unchangeable = |text| parse("").unchangeable(&parse(text));
        let everything = "listen = []\nlog = { format = \"json\" }\n\
            admin = { listen = \"127.0.0.1:1\", control = \"x\" }\n";
        let keys: Vec<String> = unchangeable(everything).iter().map(|key| key.join(".")).collect();
        assert_eq!(keys, ["listen", "admin.listen", "admin.control", "history", "log.format"]);
        assert!(
            unchangeable("limits = { connections = 1 }\nlog = { level = \"warn\" }").is_empty()
        );
    }
}
