//! What the page says.

use std::fmt::Write as _;

use crate::config::{Config, Disclosure, System};

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1c1f23;--faint:#5b636d;--line:#d9dee4;--page:#fff;--link:#0b57d0}\
@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--faint:#a2abb6;--line:#363d46;--page:#15181c;--link:#8ab4f8}}\
*{box-sizing:border-box}\
body{margin:0;background:var(--page);color:var(--text);font:17px/1.55 system-ui,sans-serif}\
main{max-width:42rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}\
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .75rem}\
h2{font-size:1.15rem;margin:2.25rem 0 .5rem;padding-top:1.25rem;border-top:1px solid var(--line)}\
p,ul{margin:.5rem 0}ul{padding-left:1.25rem}\
dl{margin:1rem 0;display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.25rem}\
dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}\
a{color:var(--link)}code{font:.9em/1.5 ui-monospace,monospace;overflow-wrap:anywhere}\
@media(max-width:30rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.6rem}}";

/// The whole page.
pub(super) fn page(config: &Config, system: &System, disclosure: &Disclosure) -> String {
    let System { uri, name, services_in_trace, .. } = system;
    let Disclosure { operator, privacy_policy, contact, reference_validity, .. } = disclosure;
    let [uri, name, operator, privacy, contact, validity] =
        [uri, name, operator, privacy_policy, contact, reference_validity]
            .map(|text| escaped(text));
    let privacy = format!("<a href=\"{privacy}\">{privacy}</a>");
    let named = match services_in_trace {
        true => "A field <code>OPES-Via</code> names the services and what they found.",
        false => {
            "The services that a message passed are named in the operator's log, and in a field \
             <code>OPES-Via</code> if the message came with such a field."
        }
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>Mail adapted by {operator}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Mail that passes this system is looked at, and may be changed</h1>\n\
         <p>It is an OPES system (<a href=\"https://www.rfc-editor.org/rfc/rfc3897\">RFC 3897</a>). You may \
         have found this address in a message or in a reply to one.</p>\n\
         <dl>\n<dt>Operator</dt><dd>{operator}</dd>\n<dt>Contact</dt><dd>{contact}</dd>\n\
         <dt>Privacy policy</dt><dd>{privacy}</dd>\n<dt>System</dt><dd><code>{uri}</code></dd>\n\
         <dt>Processor</dt><dd><code>{name}</code></dd>\n</dl>\n\
         <p>The operator sets and enforces the privacy policy, and decides which services there are.</p>\n\
         <h2>Services</h2>\n{services}\
         <h2>What is traced</h2>\n\
         <p>Every message that passes gets a field <code>OPES-System</code> with this address, the \
         processor, and a number by which the operator finds the message in the log. {named} A reply that \
         refuses a message for what a service found ends with this address and that number.</p>\n\
         <p>So whoever reads a message sees that it passed this system. No trace names users, hosts or \
         addresses. The log has the sender, the recipients, the client's address, and what was found.</p>\n\
         <h2>Mail past the services</h2>\n{bypass}\
         <h2>References</h2>\n<p>{validity}</p>\n\
         </main>\n</body>\n</html>\n",
        services = services(config),
        bypass = bypass(config),
    )
}

fn services(config: &Config) -> String {
    let mut list = "<ul>\n".to_owned();
    let mut known: Vec<&str> = Vec::new();
    for group in &config.groups {
        for service in &group.services {
            if known.contains(&service.as_str()) {
                continue;
            }
            known.push(service);
            let watches = if group.shadow.is_some() { " (changes nothing)" } else { "" };
            let _ = writeln!(list, "<li><code>{}</code>{watches}</li>", escaped(service));
        }
    }
    list.push_str(
        "</ul>\n<p>Which of them look at a message depends on its sender and recipients.</p>\n",
    );
    list
}

fn bypass(config: &Config) -> String {
    let bypass = &config.bypass;
    let who = match (bypass.authenticated, bypass.clients.is_empty()) {
        (false, true) => {
            return "<p>Requests of senders are not heard here. Ask the contact above.</p>\n"
                .to_owned();
        }
        (true, true) => "senders who have authenticated",
        (false, false) => "certain clients",
        (true, false) => "senders who have authenticated, and of certain clients",
    };
    format!(
        "<p>A field <code>OPES-Bypass</code> asks for services to be skipped: <code>OPES-Bypass: *</code> \
         for all, or the addresses above with commas between them. Requests of {who} are heard. Services \
         that others rely on, such as a search for viruses, are not skipped all the same, and what looks \
         at commands before the message can't know of the request. The field goes on with the \
         message.</p>\n"
    )
}

/// Text in HTML, in values of attributes too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn made_of(rest: &str) -> String {
        let text = format!(
            "[system]\nuri = \"https://opes.example/\"\nname = \"mx1\"\n[system.disclosure]\n\
             listen = \"127.0.0.1:0\"\noperator = 'A & <b>\"B\"</b>'\ncontact = \"post@opes.example\"\n\
             privacy-policy = \"https://opes.example/privacy?a&b\"\n\
             reference-validity = \"Links stay as they are.\"\n\
             [[group]]\nname = \"a\"\nservers = [\"a:1\"]\nservices = [\"log\", \"spam-score\"]\n\
             [[group]]\nname = \"b\"\nservers = [\"a:1\"]\nservices = [\"log\", \"https://x.example/y\"]\nshadow = true\n{rest}"
        );
        let config = Config::parse(&text, Path::new("test.toml")).unwrap();
        let system = config.system.as_ref().unwrap();
        page(&config, system, system.disclosure.as_ref().unwrap())
    }

    /// OPES-3897-3.2-02, OPES-3897-3.2-03, OPES-3897-3.2-05, OPES-4902-5.7-01, OPES-3835-3.1-01,
    /// OPES-3835-3.4-01
    #[test]
    fn the_page_has_all_that_has_to_be_disclosed() {
        let page = made_of("");
        for part in [
            "<dd>A &amp; &lt;b&gt;&quot;B&quot;&lt;/b&gt;</dd>",
            "<dd>post@opes.example</dd>",
            "<a href=\"https://opes.example/privacy?a&amp;b\">",
            "<code>https://opes.example/</code>",
            "<code>mx1</code>",
            "<li><code>ocp://service/log</code></li>\n<li><code>ocp://service/spam-score</code></li>\n\
             <li><code>https://x.example/y</code> (changes nothing)</li>",
            "No trace names users, hosts or addresses.",
            "<p>Links stay as they are.</p>",
            "Requests of senders who have authenticated are heard.",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(made_of("[bypass]\nauthenticated = false\n").contains("not heard here"));
        let certain = made_of("[bypass]\nauthenticated = false\nclients = [\"unix\"]\n");
        assert!(certain.contains("Requests of certain clients are heard."));
    }
}
