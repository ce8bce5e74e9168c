//! An authority and certificates of the test's own, made with the program `openssl`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::java::output;

/// The authority's certificate, in the broker's directory.
pub(crate) const AUTHORITY: &str = "ca.pem";
/// The broker's key and certificate, in one file.
pub(crate) const SERVER: &str = "server.pem";

const AUTHORITY_KEY: &str = "ca.key";

/// The certificate that a client shows to a broker that asks for one.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM, without a password.
    pub key: PathBuf,
}

/// Makes an authority, and a broker's certificate for 127.0.0.1 and localhost. The authority is not in any system's store.
pub(crate) async fn make(directory: &Path) -> Result<()> {
    let request = ["-subj", "/CN=walvec test authority", "-keyout", AUTHORITY_KEY, "-out", AUTHORITY];
    openssl(directory, &[&["req", "-x509", "-days", "30"], &NEW_KEY[..], &request].concat()).await?;
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
    sign(directory, "server", names).await?;
    // The broker's key store needs the key first.
    let mut both = std::fs::read(directory.join("server.key"))?;
    both.extend(std::fs::read(directory.join("server.crt"))?);
    std::fs::write(directory.join(SERVER), both).context(SERVER)
}

/// Makes a certificate for a client.
pub(crate) async fn client(directory: &Path, name: &str) -> Result<ClientCertificate> {
    sign(directory, name, "extendedKeyUsage=clientAuth").await?;
    let file = |ending: &str| directory.join(format!("{name}.{ending}"));
    Ok(ClientCertificate { certificate: file("crt"), key: file("key") })
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// Makes `<name>.key` and `<name>.crt`, which the authority signs.
async fn sign(directory: &Path, name: &str, extension: &str) -> Result<()> {
    let file = |ending: &str| format!("{name}.{ending}");
    let (key, request, certificate, extensions) = (file("key"), file("csr"), file("crt"), file("ext"));
    std::fs::write(directory.join(&extensions), extension)?;
    let subject = format!("/CN={name}");
    let ask = ["-subj", &subject, "-keyout", &key, "-out", &request];
    openssl(directory, &[&["req", "-new"], &NEW_KEY[..], &ask].concat()).await?;
    let issue = ["x509", "-req", "-days", "30", "-in", &request, "-out", &certificate, "-extfile", &extensions];
    let by = ["-CA", AUTHORITY, "-CAkey", AUTHORITY_KEY, "-CAcreateserial"];
    openssl(directory, &[&issue[..], &by].concat()).await
}

async fn openssl(directory: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(directory).stdin(std::process::Stdio::null());
    output(command).await.context("certificates are made with openssl").map(drop)
}
