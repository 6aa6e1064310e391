//! Certificates for the tests, made on the spot.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

/// An authority that signs certificates, and the folder that they are written to.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    /// An authority; its own certificate is `NAME.pem`.
    ///
    /// # Panics
    /// If the folder can't be written to.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it can sign its own");
        write(folder, &format!("{name}.pem"), &issuer.pem());
        Self { issuer, folder: folder.to_owned() }
    }

    /// A certificate with these names: `FILE.pem`, and its key `FILE.key`.
    ///
    /// # Panics
    /// If the folder can't be written to.
    pub fn sign(&self, file: &str, names: &[&str]) {
        self.issue(file, params(names));
    }

    /// A certificate that is valid no more.
    ///
    /// # Panics
    /// If the folder can't be written to.
    pub fn sign_expired(&self, file: &str, names: &[&str]) {
        let mut params = params(names);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.issue(file, params);
    }

    fn issue(&self, file: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority can sign it");
        write(&self.folder, &format!("{file}.pem"), &certificate.pem());
        write(&self.folder, &format!("{file}.key"), &key.serialize_pem());
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("they are names")
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("the folder can be written to");
}
