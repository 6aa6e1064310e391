//! The bodies of the fuzz targets; unit tests run them over the corpora.

mod connection;
mod decode;
mod operations;

pub use connection::{connection_processor, connection_server};
pub use decode::decode;
pub use operations::operations;

use connection::{take, tls, transaction};

/// Runs a target over its corpus, which must be there.
#[cfg(test)]
fn run_corpus(target: &str, body: fn(&[u8])) {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        body(&std::fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 8, "{files} seeds for {target}");
}
