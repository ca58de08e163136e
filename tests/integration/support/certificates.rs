use std::path::PathBuf;

use super::{Folder, run};

/// A CA that has nothing to do with Hallpass, made with OpenSSL: for the servers of others.
pub(crate) struct OtherCa {
    folder: Folder,
}

impl OtherCa {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        folder.write("openssl.cnf", "[req]\ndistinguished_name = name\n[name]\n");
        let ca = Self { folder };
        ca.make("ca", &["basicConstraints=critical,CA:TRUE"], &[]);
        ca
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for a host, and its key.
    pub(crate) fn certify(&self, host: &str) -> (PathBuf, PathBuf) {
        let names = format!("subjectAltName=DNS:{host}");
        let path = |ending: &str| self.folder.join(format!("{host}.{ending}"));
        let ca = [self.root(), self.folder.join("ca.key")].map(|path| path.display().to_string());
        let by = ["-CA", &ca[0], "-CAkey", &ca[1]];
        self.make(host, &["basicConstraints=critical,CA:FALSE", &names], &by);
        (path("pem"), path("key"))
    }

    fn make(&self, name: &str, extensions: &[&str], by: &[&str]) {
        let path = |name: String| self.folder.join(name).display().to_string();
        let (config, key, certificate) = (
            path("openssl.cnf".to_owned()),
            path(format!("{name}.key")),
            path(format!("{name}.pem")),
        );
        let subject = format!("/CN={name}");
        let mut arguments = vec![
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-config",
            &config,
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ];
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        run("openssl", arguments.iter().chain(by)).ok();
    }
}
