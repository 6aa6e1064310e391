//! Replies and what rules make of them.

use std::path::Path;

use ocp_proto::smtp::may_replace;
use proptest::prelude::*;

use super::*;
use crate::setting::documented;

fn service(settings: &str) -> Result<ReplyFilter, SettingsError> {
    ReplyFilter::new(Settings::parse(settings, Path::new(""))?)
}

/// What becomes of a reply; `|` stands between lines.
fn filtered(settings: &str, command: Command, line: Option<&'static str>, reply: &str) -> String {
    let reply = Reply::parse(reply.replace('|', "\r\n") + "\r\n").unwrap();
    let line = line.map(|line| CommandLine::new(line).unwrap());
    match service(settings).unwrap().filtered(&command, &reply, line.as_ref()) {
        Err(error) => format!("error: {error}"),
        Ok(None) => "unchanged".to_owned(),
        Ok(Some(new)) => {
            assert_eq!(may_replace(&command, &reply, &new, &[]), Ok(()));
            new.to_string()
        }
    }
}

#[test]
fn hosts_are_hidden_wherever_they_stand_and_codes_stay() {
    let settings = documented(include_str!("../reply_filter.rs"));
    let cases = [
        (Command::Greeting, "220 mx1.internal ESMTP", "220 mail.example.com ESMTP"),
        (
            Command::Rcpt,
            "450-4.2.0 mx1.internal busy|450-|450 4.2.0 ask mx2.internal, mx3.internal",
            "450-4.2.0 mail.example.com busy / 450- / 450 4.2.0 ask mail.example.com, mail.example.com",
        ),
        (
            Command::Message,
            "250 2.0.0 queued as 4T at mx1.internal",
            "250 2.0.0 queued as 4T at mail.example.com",
        ),
        (Command::Rcpt, "250 2.1.5 Ok", "unchanged"),
        (Command::Rcpt, "250", "unchanged"),
        // What stands behind the first line of EHLO's reply are extensions.
        (
            Command::Helo,
            "250-mx1.internal|250-mx2.internal|250 DSN",
            "250-mail.example.com / 250-mx2.internal / 250 DSN",
        ),
        // Never altered.
        (Command::Data, "354 mx1.internal", "unchanged"),
        (Command::StartTls, "220 mx1.internal", "unchanged"),
        (Command::StartTls, "454 4.7.0 mx1.internal", "454 4.7.0 mail.example.com"),
    ];
    for (command, reply, expected) in cases {
        assert_eq!(filtered(&settings, command, None, reply), expected, "{reply}");
    }
}

#[test]
fn a_rule_may_be_for_some_commands_and_codes() {
    let settings = documented(include_str!("../reply_filter.rs"));
    let rcpt = Some("rcpt TO:<a@b>");
    let cases = [
        (rcpt, "550 5.1.1 no such user", "550 5.1.1 Diesen Empfaenger gibt es hier nicht"),
        (rcpt, "550 5.1.10 no such domain", "unchanged"),
        (rcpt, "550 no such user", "unchanged"),
        (None, "550 5.1.1 no such user", "unchanged"),
    ];
    for (line, reply, expected) in cases {
        assert_eq!(filtered(&settings, Command::Rcpt, line, reply), expected, "{line:?} {reply}");
    }
    let greeting =
        "[[rule]]\ncommand = '^GREETING$'\ncode = '^2'\ntext = 'x(.)'\nreplacement = '$1'";
    assert_eq!(filtered(greeting, Command::Greeting, None, "220 xa xb"), "220 a b");
    assert_eq!(filtered(greeting, Command::Quit, Some("QUIT"), "221 xa"), "unchanged");
    // Each rule sees what the one before it made.
    let two = "[[rule]]\ntext = 'a'\nreplacement = 'b'\n[[rule]]\ntext = 'bb'\nreplacement = 'c'";
    assert_eq!(filtered(two, Command::Mail, None, "550 ab"), "550 c");
}

#[test]
fn a_text_that_is_no_text_of_a_reply_is_a_failure() {
    let grows = "[[rule]]\ntext = ''\nreplacement = 'abcdefghij'";
    let reply = format!("550 {}", "x".repeat(100));
    let error = filtered(grows, Command::Mail, None, &reply);
    assert_eq!(error, "error: replacement: \"\" makes a line that is too long");
    let repeats = format!("[[rule]]\ntext = '(.+)'\nreplacement = '{}'", "$1".repeat(5_000));
    assert!(filtered(&repeats, Command::Mail, None, &reply).starts_with("error: replacement"));
}

#[test]
fn it_wants_no_more_than_its_rules_look_at() {
    let declaration = |settings: &str| service(settings).unwrap().declaration();
    assert!(declaration("").replies.is_empty());
    let text = "[[rule]]\ntext = 'a'\nreplacement = 'b'";
    let all = declaration(text);
    assert_eq!((all.replies.len(), all.wants_replied_command), (13, false));
    assert_eq!((all.events.len(), all.on_failure), (0, FailurePolicy::Accept));
    let some = declaration(&documented(include_str!("../reply_filter.rs")));
    assert_eq!((some.replies.len(), some.wants_replied_command), (6, true));
}

#[test]
fn wrong_settings_are_shown_where_they_stand() {
    let span = |settings: &str| {
        let error = service(settings).unwrap_err();
        settings.get(error.span.unwrap_or_default()).unwrap_or_default().to_owned()
    };
    let rule = |rest: &str| format!("rule = [{{ {rest} }}]");
    assert_eq!(span(&rule("text = '(', replacement = ''")), "'('");
    assert_eq!(span(&rule("text = 'a', code = '[', replacement = ''")), "'['");
    assert_eq!(span(&rule("text = 'a', command = '*', replacement = ''")), "'*'");
    assert_eq!(span(&rule("text = 'a', replacement = 'ü'")), "'ü'");
    assert_eq!(span(&rule("text = 'a', replacement = \"\\r\"")), "\"\\r\"");
    assert_eq!(span(&rule("text = 'a', replacement = '', status = 'x'")), "status");
    let connect = "replies = ['CONNECT']\nrule = [{ text = 'a', replacement = 'b' }]";
    assert_eq!(span(connect), "'CONNECT'");
}

proptest! {
    /// Whatever the next hop says, its reply stays one with the same codes, or the service fails.
    #[test]
    fn any_reply_keeps_its_codes(
        lines in proptest::collection::vec("( |5\\.1\\.1 |2\\.0)?[ -~]{0,40}", 1..4),
        code in 220u16..560,
    ) {
        let count = lines.len();
        let mark = |at| if at + 1 == count { ' ' } else { '-' };
        let octets: String = lines.iter().enumerate()
            .map(|(at, line)| format!("{code}{}{line}\r\n", mark(at))).collect();
        let Ok(reply) = Reply::parse(octets) else { return Ok(()) };
        let service = service("[[rule]]\ntext = '[a-m]+|^$'\nreplacement = 'x $0'").unwrap();
        if let Ok(Some(new)) = service.filtered(&Command::Rcpt, &reply, None) {
            prop_assert_eq!(new.code(), reply.code());
            prop_assert_eq!(new.lines().count(), reply.lines().count());
            for (old, new) in reply.lines().zip(new.lines()) {
                prop_assert_eq!(Line::of(old).status, Line::of(new).status);
            }
        }
    }
}
