//! How services are named.

/// The URI of a service, from that or from its name, which stands for `ocp://service/NAME`.
///
/// # Errors
/// If it is empty, or has characters that would end it in a list.
pub fn service_uri(text: &str) -> Result<String, String> {
    let sound = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '"' | ';');
    match text.trim() {
        "" => Err("the name of a service is empty".to_owned()),
        name if !name.chars().all(sound) => {
            Err(format!("{name:?} is no service: no blanks, controls, commas, quotes, semicolons"))
        }
        uri if uri.contains("://") => Ok(uri.to_owned()),
        name => Ok(format!("ocp://service/{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_short_names() {
        assert_eq!(service_uri(" log ").unwrap(), "ocp://service/log");
        assert_eq!(service_uri("http://x/y").unwrap(), "http://x/y");
        assert!(service_uri("a b").is_err() && service_uri("").is_err());
    }
}
