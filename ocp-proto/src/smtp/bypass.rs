//! Requests to skip services (profile section 8, RFC 3897 section 4).

/// Whether a URI of a request means this service: one that is the same up to a parameter, a query or a
/// fragment does, since whoever is not sure that it means another service skips this one (RFC 3897
/// section 4). `*` means all services, and is not asked about here.
pub fn means_service(requested: &[u8], service: &[u8]) -> bool {
    requested.eq_ignore_ascii_case(service)
        || requested.split_at_checked(service.len()).is_some_and(|(front, rest)| {
            front.eq_ignore_ascii_case(service) && matches!(rest.first(), Some(b';' | b'?' | b'#'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OPES-3897-4-03
    #[test]
    fn a_uri_that_differs_in_a_parameter_means_the_service() {
        let cases = [
            ("ocp://service/a", true),
            ("OCP://Service/a", true),
            ("ocp://service/a;v=2", true),
            ("ocp://service/a?x", true),
            ("ocp://service/a#x", true),
            ("ocp://service/ab", false),
            ("ocp://service/a/b", false),
            ("ocp://service/", false),
            ("ocp://service/b;ocp://service/a", false),
            ("", false),
        ];
        for (requested, expected) in cases {
            let means = means_service(requested.as_bytes(), b"ocp://service/a");
            assert_eq!(means, expected, "{requested}");
        }
        assert!(means_service("ocp://service/ä".as_bytes(), "ocp://service/ä".as_bytes()));
    }
}
