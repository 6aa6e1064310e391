use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Address {
    Address::new(format!("<{text}>")).unwrap()
}

fn patterns(texts: &[&str]) -> Vec<AddressPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rule(name: &str, groups: &[usize]) -> Rule {
    Rule { name: name.to_owned(), groups: groups.to_vec(), ..Rule::default() }
}

/// A whole dialog, up to its DATA.
#[derive(Clone, Debug)]
struct Story {
    listen: &'static str,
    origin: Origin,
    authenticated: bool,
    sender: Address,
    recipients: Vec<Address>,
}

impl Story {
    fn new(client: &str, sender: &str, recipients: &[&str]) -> Self {
        Self {
            listen: "mx",
            origin: Origin::Address(client.parse().unwrap()),
            authenticated: false,
            sender: address(sender),
            recipients: recipients.iter().map(|recipient| address(recipient)).collect(),
        }
    }

    /// What is known at CONNECT, at HELO, behind AUTH, at MAIL, at each RCPT, and at DATA.
    fn events(&self) -> Vec<(String, Known<'_>)> {
        let connect = Known {
            listen: self.listen,
            origin: self.origin,
            authenticated: false,
            sender: None,
            recipients: &[],
            recipient: None,
            complete: false,
        };
        let helo = Known { authenticated: self.authenticated, ..connect };
        let mail = Known { sender: Some(&self.sender), ..helo };
        let rcpt = self.recipients.iter().enumerate().map(|(index, recipient)| {
            let recipients = &self.recipients[..index];
            (format!("RCPT {recipient}"), Known { recipients, recipient: Some(recipient), ..mail })
        });
        let data = Known { recipients: &self.recipients, complete: true, ..mail };
        let start = [("CONNECT".to_owned(), connect), ("HELO".to_owned(), helo)];
        let all = start.into_iter().chain([("MAIL".to_owned(), mail)]).chain(rcpt);
        all.chain([("DATA".to_owned(), data)]).collect()
    }

    /// `EVENT: GROUPS by RULE` for each event.
    fn told(&self, rules: &Rules) -> Vec<String> {
        let line = |(event, known): (String, Known<'_>)| {
            let Selection { groups, rule } = rules.groups(&known);
            format!("{event}: {groups:?} by {}", rule.unwrap_or("?"))
        };
        self.events().into_iter().map(line).collect()
    }
}

#[test]
fn without_rules_all_groups_are_asked_in_their_order() {
    let story = Story::new("192.0.2.1", "a@b", &["c@d"]);
    assert_eq!(
        story.told(&Rules::new(Vec::new(), 3)),
        [
            "CONNECT: [0, 1, 2] by (no rule)",
            "HELO: [0, 1, 2] by (no rule)",
            "MAIL: [0, 1, 2] by (no rule)",
            "RCPT <c@d>: [0, 1, 2] by (no rule)",
            "DATA: [0, 1, 2] by (no rule)",
        ]
    );
}

#[test]
fn what_connect_knows_decides_at_connect() {
    let near = Rule {
        clients: vec!["192.0.2.0/24".parse().unwrap()],
        listen: vec!["mx".to_owned()],
        ..rule("near", &[1, 0])
    };
    let rules = Rules::new(vec![near, rule("rest", &[])], 2);
    let at_connect = |story: &Story| story.told(&rules)[0].clone();
    let near = Story::new("192.0.2.1", "a@b", &["c@d"]);
    assert_eq!(at_connect(&near), "CONNECT: [1, 0] by near");
    let elsewhere = Story { listen: "submission", ..near.clone() };
    assert_eq!(at_connect(&elsewhere), "CONNECT: [] by rest");
    let unknown = Story { origin: Origin::Unknown, ..near };
    assert_eq!(at_connect(&unknown), "CONNECT: [] by rest");
    let far = Story::new("198.51.100.1", "a@b", &["c@d"]);
    assert_eq!(at_connect(&far), "CONNECT: [] by rest");
}

#[test]
fn an_open_sender_leaves_what_is_certain() {
    let partner = Rule { senders: patterns(&[".partner.example"]), ..rule("partner", &[1]) };
    let rules = Rules::new(vec![partner, rule("rest", &[0, 1])], 3);
    let partner = Story::new("192.0.2.1", "a@mx.partner.example", &["c@d"]);
    assert_eq!(
        partner.told(&rules),
        [
            "CONNECT: [1] by ?",
            "HELO: [1] by ?",
            "MAIL: [1] by partner",
            "RCPT <c@d>: [1] by partner",
            "DATA: [1] by partner",
        ]
    );
    let other = Story::new("192.0.2.1", "", &["c@d"]);
    assert_eq!(other.told(&rules)[1..3], ["HELO: [1] by ?", "MAIL: [0, 1] by rest"]);
}

#[test]
fn who_has_not_authenticated_may_do_so_until_mail() {
    let users = Rule { authenticated: Some(true), ..rule("users", &[0]) };
    let others = Rule { authenticated: Some(false), ..rule("others", &[1]) };
    let rules = Rules::new(vec![users, others], 2);
    let anonymous = Story::new("192.0.2.1", "a@b", &["c@d"]);
    assert_eq!(
        anonymous.told(&rules)[..3],
        ["CONNECT: [] by ?", "HELO: [] by ?", "MAIL: [1] by others"]
    );
    let user = Story { authenticated: true, ..anonymous };
    assert_eq!(
        user.told(&rules)[..3],
        ["CONNECT: [] by ?", "HELO: [0] by users", "MAIL: [0] by users"]
    );
}

#[test]
fn one_recipient_of_the_list_is_enough() {
    let strict = Rule { recipients: patterns(&["ceo@example.org"]), ..rule("strict", &[0, 1]) };
    let rules = Rules::new(vec![strict, rule("rest", &[0])], 2);
    let some = Story::new("192.0.2.1", "a@b", &["c@example.org", "\"CEO\"@example.org", "d@e"]);
    assert_eq!(
        some.told(&rules)[2..],
        [
            "MAIL: [0] by ?",
            "RCPT <c@example.org>: [0] by ?",
            "RCPT <\"CEO\"@example.org>: [0, 1] by strict",
            "RCPT <d@e>: [0, 1] by strict",
            "DATA: [0, 1] by strict",
        ]
    );
    let none = Story::new("192.0.2.1", "a@b", &["c@example.org"]);
    assert_eq!(none.told(&rules)[3..], ["RCPT <c@example.org>: [0] by ?", "DATA: [0] by rest"]);
}

/// Nobody frees a message of its services by adding a recipient.
#[test]
fn all_recipients_have_to_be_on_the_other_list() {
    let abuse = Rule { all_recipients: patterns(&["abuse@example.org"]), ..rule("abuse", &[]) };
    let rules = Rules::new(vec![abuse, rule("rest", &[0])], 1);
    let alone = Story::new("192.0.2.1", "a@b", &["abuse@example.org"]);
    assert_eq!(
        alone.told(&rules)[2..],
        ["MAIL: [] by ?", "RCPT <abuse@example.org>: [] by ?", "DATA: [] by abuse"]
    );
    let mixed = Story::new("192.0.2.1", "a@b", &["abuse@example.org", "c@example.org"]);
    assert_eq!(
        mixed.told(&rules)[3..],
        [
            "RCPT <abuse@example.org>: [] by ?",
            "RCPT <c@example.org>: [0] by rest",
            "DATA: [0] by rest",
        ]
    );
}

#[test]
fn a_recipient_that_was_refused_does_not_count() {
    let strict = Rule { recipients: patterns(&["ceo@example.org"]), ..rule("strict", &[1]) };
    let rules = Rules::new(vec![strict, rule("rest", &[0])], 2);
    let story = Story::new("192.0.2.1", "a@b", &["ceo@example.org", "c@d"]);
    let (_, data) = story.events().pop().unwrap();
    let accepted = &story.recipients[1..];
    let selection = rules.groups(&Known { recipients: accepted, ..data });
    assert_eq!(selection, Selection { groups: vec![0], rule: Some("rest") });
}

#[test]
fn a_rule_is_a_line_for_people() {
    let rule = Rule {
        listen: vec!["mx".to_owned()],
        clients: vec!["192.0.2.0/24".parse().unwrap(), Clients::Unix],
        authenticated: Some(false),
        senders: patterns(&["<>", ".b"]),
        recipients: patterns(&["C@d"]),
        all_recipients: patterns(&["d"]),
        ..rule("r", &[])
    };
    assert_eq!(
        rule.to_string(),
        "r: listen mx, clients 192.0.2.0/24 unix, not authenticated, senders <> .b, recipients c@d, \
         all-recipients d"
    );
    assert_eq!(Rule { name: "all".to_owned(), ..Rule::default() }.to_string(), "all: everybody");
}

fn list(names: &'static [&'static str]) -> impl Strategy<Value = Vec<AddressPattern>> {
    prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::sample::subsequence(names, 1..=2).prop_map(|names| patterns(&names)),
    ]
}

const NAMES: &[&str] = &["a@x.org", "b@x.org", "x.org", ".org", "y.net"];

fn some_rule() -> impl Strategy<Value = Rule> {
    let conditions = (
        prop::sample::subsequence(vec!["mx", "submission"], 0..=1),
        prop::sample::subsequence(vec!["192.0.2.0/24", "unix"], 0..=1),
        prop::option::of(any::<bool>()),
        list(NAMES),
        list(NAMES),
        list(NAMES),
    );
    let groups = prop::sample::subsequence(vec![0, 1, 2], 0..=3).prop_shuffle();
    (conditions, groups).prop_map(|(conditions, groups)| {
        let (listen, clients, authenticated, senders, recipients, all_recipients) = conditions;
        Rule {
            name: String::new(),
            listen: listen.into_iter().map(str::to_owned).collect(),
            clients: clients.into_iter().map(|text| text.parse().unwrap()).collect(),
            authenticated,
            senders,
            recipients,
            all_recipients,
            groups,
        }
    })
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(some_rule(), 0..6).prop_map(|mut rules| {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.name = index.to_string();
        }
        rules
    })
}

fn some_story() -> impl Strategy<Value = Story> {
    const ADDRESSES: &[&str] = &["a@x.org", "b@x.org", "c@z.x.org", "d@y.net", "e@z.com"];
    let origin = prop_oneof![
        Just(Origin::Unix),
        Just(Origin::Unknown),
        Just(Origin::Address("192.0.2.9".parse().unwrap())),
    ];
    (
        prop::sample::select(vec!["mx", "submission"]),
        origin,
        any::<bool>(),
        prop::sample::select(ADDRESSES),
        prop::collection::vec(prop::sample::select(ADDRESSES), 1..4),
    )
        .prop_map(|(listen, origin, authenticated, sender, recipients)| Story {
            listen,
            origin,
            authenticated,
            sender: address(sender),
            recipients: recipients.into_iter().map(address).collect(),
        })
}

/// Whether a rule matches once everything is known: said once more, without what is open.
fn matches(rule: &Rule, story: &Story) -> bool {
    let listed =
        |address: &Address, list: &[AddressPattern]| list.iter().any(|p| p.matches(address));
    let recipients = &story.recipients;
    (rule.listen.is_empty() || rule.listen.contains(&story.listen.to_owned()))
        && (rule.clients.is_empty() || rule.clients.iter().any(|c| c.contain(story.origin)))
        && rule.authenticated.is_none_or(|wanted| wanted == story.authenticated)
        && (rule.senders.is_empty() || listed(&story.sender, &rule.senders))
        && (rule.recipients.is_empty() || recipients.iter().any(|r| listed(r, &rule.recipients)))
        && (rule.all_recipients.is_empty()
            || recipients.iter().all(|r| listed(r, &rule.all_recipients)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_first_rule_that_matches_decides(written in some_rules(), story in some_story()) {
        let rules = Rules::new(written.clone(), 3);
        let (_, data) = story.events().pop().unwrap();
        let decided = rules.groups(&data);
        let first = written.iter().find(|rule| matches(rule, &story));
        let expected = first.map_or((vec![0, 1, 2], NO_RULE), |r| (r.groups.clone(), &r.name));
        prop_assert_eq!((decided.groups, decided.rule), (expected.0, Some(expected.1)));
    }

    #[test]
    fn what_becomes_known_takes_no_group_away(written in some_rules(), story in some_story()) {
        let rules = Rules::new(written, 3);
        let selections: Vec<_> =
            story.events().iter().map(|(_, known)| rules.groups(known)).collect();
        for pair in selections.windows(2) {
            let [before, after] = pair else { unreachable!() };
            prop_assert!(before.groups.iter().all(|group| after.groups.contains(group)));
            if before.rule.is_some() {
                prop_assert_eq!(before, after);
            }
        }
    }
}
