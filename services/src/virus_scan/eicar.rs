//! The EICAR test file (<https://www.eicar.org/download-anti-malware-testfile/>).

/// The name that is reported.
pub(super) const NAME: &str = "Eicar-Test-Signature";

/// The longest test file, white space at the end included.
const LONGEST: usize = 128;

/// The 68 octets, put together here so that no scanner takes this program for them.
pub(super) fn text() -> Vec<u8> {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$", "EICAR-STANDARD-", "ANTIVIRUS-", "TEST-FILE!$H+H*"]
        .concat()
        .into_bytes()
}

/// Whether a file is the test file: it starts with the 68 octets, and only white space follows. By
/// its rules nothing else is.
pub(super) fn is_eicar(octets: &[u8]) -> bool {
    octets.len() <= LONGEST
        && octets.strip_prefix(text().as_slice()).is_some_and(|rest| {
            rest.iter().all(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n' | 0x1a))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_file_starts_with_the_text_and_nothing_else_follows() {
        assert_eq!(text().len(), 68);
        assert!(is_eicar(&text()));
        assert!(is_eicar(&[&text()[..], b" \t\r\n\x1a"].concat()));
        assert!(!is_eicar(&[b" ", &text()[..]].concat()));
        assert!(!is_eicar(&[&text()[..], b"x"].concat()));
        assert!(!is_eicar(&[&text()[..], &[b' '; 61]].concat()));
    }
}
