use super::{Folder, run};

/// What `openssl req -newkey` takes for the usual kind of key.
pub(crate) const P256: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// Has OpenSSL make `NAME.key` and `NAME.csr`.
pub(crate) fn make_csr(folder: &Folder, name: &str, kind: &[&str], options: &[&str]) {
    let path = |ending: &str| {
        let path = folder.join(format!("{name}.{ending}"));
        path.to_str().expect("a plain path").to_owned()
    };
    let (key, csr) = (path("key"), path("csr"));
    let made = [
        "req",
        "-new",
        "-nodes",
        "-subj",
        "/CN=root/O=all",
        "-keyout",
        &key,
        "-out",
        &csr,
    ];
    run(
        "openssl",
        made.iter().chain(&["-newkey"]).chain(kind).chain(options),
    )
    .ok();
}
