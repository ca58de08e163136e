//! Hosts that keep themselves up to date.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Ca, Folder, Home, Host, Person, Ran, Sshd, is_root, run, wait_until};

fn login(bob: &Person, sshd: &Sshd) -> Ran {
    let ask = "ssh --role server-operator --purpose incident --reason x --";
    let target = sshd.target();
    let arguments = ask.split(' ').map(str::to_owned).chain(target);
    bob.hallpass(arguments.chain(["echo in".to_owned()]))
}

fn select(bob: &Person, host: &Host) -> Ran {
    let ask = "psql --role patients-read --purpose incident --reason INC-1 --";
    let target = host.postgres.as_ref().unwrap().target();
    let arguments = ask.split(' ').map(str::to_owned).chain(target);
    let query = ["-XAtqc", "SELECT name FROM records"].map(str::to_owned);
    bob.hallpass(arguments.chain(query))
}

/// Every file below a folder but logs and what changes by itself.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.display().to_string();
            if path.is_dir() {
                waiting.push(path);
            } else if !name.ends_with(".log") {
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_host_joins_shows_what_it_will_change_and_gives_it_back() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let host = Host::with_sshd("app-1");
    let sshd = host.sshd.as_ref().unwrap();
    let before = files(sshd.folder.path());
    let not_joined = host.sync();
    assert_eq!(not_joined.code, 78, "{not_joined:?}");
    assert!(not_joined.err.contains("has not joined"), "{not_joined:?}");

    let token = host.invited(&ca.admin(), &[]);
    let joined = host.join(&ca, &token).ok();
    assert!(
        joined.contains("This host is app-1 from now on."),
        "{joined}"
    );
    let dry = Ran::of(host.command("sync").arg("--dry-run")).ok();
    assert!(
        dry.contains("would write") && dry.contains("sshd_config.d/00-hallpass.conf"),
        "{dry}"
    );
    assert_eq!(files(sshd.folder.path()), before, "nothing changed yet");
    assert_ne!(login(&bob, sshd).code, 0);

    let synced = host.sync().ok();
    assert!(
        synced.contains("is in force; certificates are good until"),
        "{synced}"
    );
    assert_eq!(login(&bob, sshd).ok(), "in\n");
    let again = host.sync().ok();
    assert!(
        again.starts_with("Nothing to change.\nTrust bundle "),
        "{again}"
    );
    let listed = ca.admin().hallpass(["host", "list"]).ok();
    assert!(
        listed.contains("app-1") && listed.contains(", the newest"),
        "{listed}"
    );

    let left = Ran::of(&mut host.command("leave")).ok();
    assert!(left.contains("This host has left the CA."), "{left}");
    let mut after = files(sshd.folder.path());
    after.retain(|name, _| before.contains_key(name) || !name.contains("hallpass"));
    assert_eq!(after, before);
    assert!(!sshd.folder.join("hallpass_principals").exists());
    assert_ne!(login(&bob, sshd).code, 0);
    assert!(!ca.admin().hallpass(["host", "list"]).ok().contains("app-1"));
}

#[test]
fn a_token_is_good_once_and_only_for_its_host() {
    let ca = Ca::start();
    let admin = ca.admin();
    let host = Host::with_sshd("app-1");
    let token = host.invited(&admin, &[]);
    let cut = host.join(&ca, &token[..40]);
    assert_eq!(cut.code, 65, "{cut:?}");
    assert!(cut.err.contains("copy all of it"), "{cut:?}");
    let (pin, _) = token.split_once('.').unwrap();
    let guessed = host.join(&ca, &format!("{pin}.{}", "A".repeat(43)));
    assert_eq!(guessed.code, 77, "{guessed:?}");
    host.join(&ca, &token).ok();
    let thief = Host::with_sshd("app-1");
    let late = thief.join(&ca, &token);
    assert_eq!(late.code, 77, "{late:?}");
    let refusals = ca.home.entries("unauthenticated-refused");
    assert_eq!(
        refusals.last().unwrap()["event"]["refused"]["code"],
        "not-invited"
    );
    let expired = thief.invited(&admin, &["--token-life", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(thief.join(&ca, &expired).code, 77);
    // The host that joined is none the worse.
    host.sync().ok();
    // Nor is anything dropped without a word.
    let invite = ["host", "invite", "db-1", "--postgres", "--json"];
    let invited: serde_json::Value = serde_json::from_str(&admin.hallpass(invite).ok()).unwrap();
    let joined = thief.join(&ca, invited["token"].as_str().unwrap()).ok();
    assert!(
        joined.contains("Its sshd is left alone, for which it was not invited"),
        "{joined}"
    );
    // Nor does the log hold what lets anybody in.
    assert!(!ca.home.lines().concat().contains(&token));
    let twice = host.join(&ca, &token);
    assert!(twice.err.contains("has joined already"), "{twice:?}");
    admin.hallpass(["host", "remove", "app-1"]).ok();
    assert_eq!(host.sync().code, 77);
}

#[test]
fn a_host_lets_in_only_the_roles_that_name_it() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    // server-operator is for app-* and db-*.
    let named = Host::with_sshd("app-1");
    named.take_in(&ca, &[]);
    let labelled = Host::with_sshd("mail");
    labelled.take_in(&ca, &["--label", "db-replica"]);
    let other = Host::with_sshd("web-1");
    other.take_in(&ca, &[]);
    let try_in = |host: &Host| login(&bob, host.sshd.as_ref().unwrap()).code;
    assert_eq!(try_in(&named), 0);
    assert_eq!(try_in(&labelled), 0);
    assert_ne!(
        try_in(&other),
        0,
        "it trusts the CA, and is meant for no role"
    );
}

#[test]
fn a_database_is_set_up_and_given_back() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let host = Host::with_postgres("db-1");
    host.take_in(&ca, &[]);
    assert_eq!(select(&bob, &host).ok(), "ward 3\n");
    let again = host.sync().ok();
    assert!(again.starts_with("Nothing to change."), "{again}");
    Ran::of(&mut host.command("leave")).ok();
    assert_ne!(
        select(&bob, &host).code,
        0,
        "it does not speak TLS any more"
    );
}

#[test]
fn what_sshd_does_not_take_is_taken_back() {
    let ca = Ca::start();
    let host = Host::with_sshd("app-1");
    let sshd = host.sshd.as_ref().unwrap();
    let token = host.invited(&ca.admin(), &[]);
    host.join(&ca, &token).ok();
    let before = files(sshd.folder.path());
    // Somebody else's mistake.
    sshd.folder
        .write("sshd_config.d/zz.conf", "NoSuchOption yes\n");
    let refused = host.sync();
    assert_eq!(refused.code, 78, "{refused:?}");
    assert!(
        refused
            .err
            .contains("sshd does not take the new configuration, and the old one is back")
            && refused.err.contains("NoSuchOption"),
        "{refused:?}"
    );
    fs::remove_file(sshd.folder.join("sshd_config.d/zz.conf")).unwrap();
    let mut after = files(sshd.folder.path());
    after.retain(|name, _| before.contains_key(name));
    assert_eq!(after, before);
    assert!(!sshd.folder.join("sshd_config.d/00-hallpass.conf").exists());
    assert_ne!(
        fs::read(sshd.folder.join("hallpass_user_ca.pub")).unwrap(),
        b""
    );
    // Or an option in front that wins, such as in an image of a cloud.
    for option in [
        "TrustedUserCAKeys /etc/none",
        "RevokedKeys none",
        "PasswordAuthentication yes",
        "AuthorizedKeysFile .ssh/authorized_keys",
        "HostbasedAuthentication yes",
    ] {
        let name = option.split(' ').next().unwrap().to_lowercase();
        let named = format!("something else is set for {name} in front of ");
        sshd.folder
            .write("sshd_config.d/00-a.conf", format!("{option}\n"));
        let refused = host.sync();
        assert_eq!(refused.code, 78, "{refused:?}");
        assert!(refused.err.contains(&named), "{refused:?}");
    }
    fs::remove_file(sshd.folder.join("sshd_config.d/00-a.conf")).unwrap();
    host.sync().ok();
    // Also later, when there is nothing to change.
    sshd.folder
        .write("sshd_config.d/00-a.conf", "PasswordAuthentication yes\n");
    let refused = host.sync();
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(
        refused
            .err
            .contains("sshd does not have what is set up here: something else is set for password"),
        "{refused:?}"
    );
    // Which keeps no revocation away.
    let revoked = || fs::read_to_string(sshd.folder.join("hallpass_revoked_keys")).unwrap();
    assert_eq!(revoked(), "");
    let revoke = ["key", "revoke", "ssh-user-1", "--reason", "disk lost"];
    ca.admin().hallpass(revoke).ok();
    assert_eq!(host.sync().code, 78);
    assert_eq!(
        revoked(),
        ca.admin().hallpass(["trust", "ssh-revoked"]).ok()
    );
    fs::remove_file(sshd.folder.join("sshd_config.d/00-a.conf")).unwrap();
    host.sync().ok();
    // One certificate, however often it was tried.
    assert_eq!(ca.home.entries("host-certificate-renewed").len(), 1);
    assert!(
        ca.admin()
            .hallpass(["host", "list"])
            .ok()
            .contains(", the newest")
    );
}

#[test]
fn a_fault_of_sshd_does_not_keep_postgresql_from_being_renewed() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let host = Host::with_both("app-1");
    // Half of it is over at once, since it begins a minute early.
    host.take_in(&ca, &["--ttl", "60s"]);
    let (sshd, postgres) = (host.sshd.as_ref(), host.postgres.as_ref());
    let held = || fs::read(postgres.unwrap().folder.join("data/hallpass_server.crt")).unwrap();
    let before = held();
    let wins = "PasswordAuthentication yes\n";
    sshd.unwrap().folder.write("sshd_config.d/00-a.conf", wins);
    let refused = host.sync();
    assert_eq!(refused.code, 78, "{refused:?}");
    assert!(
        refused
            .err
            .contains("something else is set for passwordauthentication"),
        "{refused:?}"
    );
    assert_ne!(held(), before);
    assert_eq!(select(&bob, &host).ok(), "ward 3\n");
}

/// Waits until sshd offers that to somebody who has nothing: while it reads its configuration again,
/// it takes no connections.
fn offers(sshd: &Sshd, methods: &str) {
    let none = ["-o", "IdentityFile=none", "-o", "IdentitiesOnly=yes"];
    let offered = format!("Permission denied ({methods})");
    wait_until(&offered, || {
        Ran::of(&mut sshd.ssh(none)).err.contains(&offered)
    });
}

#[test]
fn what_can_not_be_seen_to_be_in_force_is_taken_back_from_the_running_sshd() {
    let ca = Ca::start();
    let host = Host::with_sshd("app-1");
    let sshd = host.sshd.as_ref().unwrap();
    let before = "publickey,password,keyboard-interactive";
    offers(sshd, before);
    host.join(&ca, &host.invited(&ca.admin(), &[])).ok();
    // All of OpenSSH's but ssh-keyscan.
    let bin = host.folder.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/usr/bin/ssh-keygen", bin.join("ssh-keygen")).unwrap();
    let refused = Ran::of(host.command("sync").env("PATH", &bin));
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.err.contains("ssh-keyscan"), "{refused:?}");
    offers(sshd, before);
    host.sync().ok();
    offers(sshd, "publickey");
    assert_eq!(ca.home.entries("host-certificate-renewed").len(), 1);
}

#[test]
fn a_synchronisation_that_was_killed_before_the_reload_is_finished_by_the_next() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let host = Host::with_sshd("app-1");
    let sshd = host.sshd.as_ref().unwrap();
    host.join(&ca, &host.invited(&ca.admin(), &[])).ok();
    let path = host.folder.join("state/host.toml");
    let settings = fs::read_to_string(&path).unwrap();
    let killing = settings.replace("kill -HUP", "kill -KILL $PPID; exit; kill");
    assert_ne!(killing, settings);
    fs::write(&path, killing).unwrap();
    assert_ne!(host.sync().code, 0);
    assert!(sshd.folder.join("sshd_config.d/00-hallpass.conf").exists());
    assert_ne!(login(&bob, sshd).code, 0, "sshd was told nothing");
    fs::write(&path, settings).unwrap();
    host.sync().ok();
    assert_eq!(login(&bob, sshd).ok(), "in\n");
}

#[test]
fn sshd_can_look_up_principals_whatever_the_umask_is() {
    let ca = Ca::start();
    let host = Host::with_sshd("app-1");
    let sshd = host.sshd.as_ref().unwrap();
    host.join(&ca, &host.invited(&ca.admin(), &[])).ok();
    let principals = sshd.folder.join("hallpass_principals");
    let mode = || fs::metadata(&principals).unwrap().permissions().mode() & 0o777;
    let sync = host.command("sync");
    let mut strict = Command::new("sh");
    strict
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(sync.get_program())
        .args(sync.get_args())
        .env("HOME", host.folder.path());
    Ran::of(&mut strict).ok();
    assert_eq!(mode(), 0o755);
    fs::set_permissions(&principals, fs::Permissions::from_mode(0o700)).unwrap();
    host.sync().ok();
    assert_eq!(mode(), 0o755);
}

#[test]
fn a_database_whose_renewal_was_killed_half_way_starts_again() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let mut host = Host::with_postgres("db-1");
    host.take_in(&ca, &[]);
    let data = host.postgres.as_ref().unwrap().folder.join("data");
    let key = data.join("hallpass_server.key");
    let held = fs::read(&key).unwrap();
    host.postgres.as_mut().unwrap().stop();
    // The key is another one already, the certificate is still that of before.
    let other = run(
        "openssl",
        [
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ],
    );
    fs::write(&key, other.ok()).unwrap();
    for _ in 0..2 {
        let waits = host.sync();
        assert_eq!(waits.code, 69, "{waits:?}");
        assert!(
            waits.err.contains("PostgreSQL does not run")
                && waits.err.contains("What it needs is in place: start it"),
            "{waits:?}"
        );
    }
    assert_eq!(ca.home.entries("host-certificate-renewed").len(), 2);
    assert_ne!(fs::read(&key).unwrap(), held);
    host.postgres.as_mut().unwrap().start_again();
    host.sync().ok();
    assert_eq!(select(&bob, &host).ok(), "ward 3\n");
    assert_eq!(ca.home.entries("host-certificate-renewed").len(), 2);
}

#[test]
fn what_others_changed_in_postgresql_conf_meanwhile_stays() {
    let ca = Ca::start();
    let host = Host::with_postgres("db-1");
    let data = host.postgres.as_ref().unwrap().folder.join("data");
    let config = data.join("postgresql.conf");
    // Somebody manages it elsewhere.
    let managed = data.join("managed.conf");
    fs::rename(&config, &managed).unwrap();
    fs::set_permissions(&managed, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&managed, &config).unwrap();
    let before = fs::read_to_string(&config).unwrap();
    host.take_in(&ca, &[]);
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
    let mode = fs::metadata(&managed).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let with_line = fs::read_to_string(&managed).unwrap();
    assert!(with_line.contains("include_if_exists '"), "{with_line}");
    fs::write(&config, format!("{with_line}work_mem = '8MB'\n")).unwrap();
    Ran::of(&mut host.command("leave")).ok();
    let after = fs::read_to_string(&config).unwrap();
    assert_eq!(after, format!("{}\nwork_mem = '8MB'\n", before.trim_end()));
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
}

#[test]
fn without_the_ca_a_host_goes_on_with_what_it_has() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let host = Host::with_sshd("app-1");
    host.take_in(&ca, &[]);
    let sshd = host.sshd.as_ref().unwrap();
    assert_eq!(login(&bob, sshd).ok(), "in\n");
    let address = ca.address().to_owned();
    let home = ca.stop();
    let alone = host.sync();
    assert_eq!(alone.code, 69, "{alone:?}");
    assert_eq!(
        login(&bob, sshd).ok(),
        "in\n",
        "with the certificate that bob holds"
    );
    let left = Ran::of(&mut host.command("leave")).ok();
    assert!(left.contains("but the CA was not told"), "{left}");
    drop(Ca::at(home, &address));
}

#[test]
fn activation_waits_for_each_host_by_name() {
    let ca = Ca::start();
    let admin = ca.admin();
    let (one, two) = (Host::with_sshd("app-1"), Host::with_sshd("app-2"));
    one.take_in(&ca, &[]);
    two.take_in(&ca, &[]);
    let key = |line: &str| admin.hallpass(["key"].into_iter().chain(line.split(' ')));
    key("rotate ssh-user").ok();
    let waits = key("activate ssh-user-2");
    assert_eq!(waits.code, 65, "{waits:?}");
    for name in ["app-1", "app-2"] {
        let words = format!("for host {name} to confirm that it trusts it");
        assert!(waits.err.contains(&words), "{waits:?}");
    }
    one.sync().ok();
    let waits = key("activate ssh-user-2");
    assert!(
        !waits.err.contains("app-1") && waits.err.contains("app-2"),
        "{waits:?}"
    );
    let watching = two.watch();
    wait_until("the other host", || key("activate ssh-user-2").code == 0);
    drop(watching);
    let entry = ca.home.entries("ca-key-activated").pop().unwrap();
    assert!(entry["event"].get("forced").is_none(), "{entry}");
}

#[test]
fn an_older_trust_bundle_is_not_taken() {
    let ca = Ca::start();
    let host = Host::with_sshd("app-1");
    host.take_in(&ca, &[]);
    let path = host.folder.join("state/host.toml");
    let text = fs::read_to_string(&path).unwrap();
    let version = text
        .lines()
        .find(|line| line.starts_with("trust = "))
        .unwrap();
    fs::write(&path, text.replace(version, "trust = 999999")).unwrap();
    let refused = host.sync();
    assert_eq!(refused.code, 76, "{refused:?}");
    assert!(
        refused.err.contains("this host has 999999 already"),
        "{refused:?}"
    );
}

#[test]
fn a_locked_host_gets_no_certificate() {
    let ca = Ca::start();
    let host = Host::with_sshd("app-1");
    let token = host.invited(&ca.admin(), &[]);
    host.join(&ca, &token).ok();
    let admin = ca.admin();
    admin
        .hallpass(["lock", "host/app-1", "--reason", "under investigation"])
        .ok();
    let refused = host.sync();
    assert_eq!(refused.code, 77, "{refused:?}");
    assert!(
        refused.err.contains("host/app-1 is locked since "),
        "{refused:?}"
    );
    admin.hallpass(["unlock", "host/app-1"]).ok();
    host.sync().ok();
}

#[test]
fn a_revoked_issuing_ca_is_distrusted_by_every_host_that_comes_by_itself() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let host = Host::with_postgres("db-1");
    host.take_in(&ca, &[]);
    assert_eq!(select(&bob, &host).ok(), "ward 3\n");
    let revoked = admin
        .hallpass(["key", "revoke", "x509-issuing-1", "--reason", "disk lost"])
        .ok();
    assert!(
        revoked.contains("revoked") && revoked.contains("CN=patients_read,UID=bob"),
        "{revoked}"
    );
    // No server shows a certificate under the old root: the log's key vouches for the new one.
    let synced = host.sync().ok();
    assert!(synced.contains("is in force"), "{synced}");
    assert_ne!(
        select(&bob, &host).code,
        0,
        "the certificate that bob holds is the old CA's"
    );
    let again = bob.hallpass(["whoami"]);
    assert_eq!(again.code, 77, "{again:?}");
    bob.reconnect(&ca, &admin);
    assert_eq!(select(&bob, &host).ok(), "ward 3\n");
}

#[test]
fn revocation_lists_are_a_backstop_for_postgresql() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let host = Host::with_postgres("db-1");
    host.take_in(&ca, &[]);
    assert_eq!(select(&bob, &host).ok(), "ward 3\n");
    let key = |line: &str| {
        admin
            .hallpass(["key"].into_iter().chain(line.split(' ')))
            .ok()
    };
    key("rotate x509-issuing");
    key("activate x509-issuing-2");
    key("retire x509-issuing-1 --force now");
    host.sync().ok();
    // The root still vouches for the retired CA.
    assert_eq!(select(&bob, &host).ok(), "ward 3\n");
    let lists = key("crl");
    assert_eq!(lists.matches("BEGIN X509 CRL").count(), 2, "{lists}");
    host.postgres.as_ref().unwrap().revoke(&lists);
    assert_ne!(select(&bob, &host).code, 0);
    // The first is the root's, and names the retired CA.
    let file = bob.folder.write("crl.pem", lists);
    let named = run(
        "openssl",
        ["crl", "-noout", "-text", "-in", file.to_str().unwrap()],
    )
    .ok();
    let old = ca.home.path().join("keys/x509-issuing-1.pem");
    let serial = run(
        "openssl",
        ["x509", "-noout", "-serial", "-in", old.to_str().unwrap()],
    )
    .ok();
    let serial = serial.trim().trim_start_matches("serial=");
    assert!(
        named.contains(&format!("Serial Number: {serial}")),
        "{named}"
    );
    let carol = ca.enrol("carol", &["on-call"]);
    assert_eq!(select(&carol, &host).ok(), "ward 3\n");
}

#[test]
fn revoked_user_ca_keys_are_named_to_sshd() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let host = Host::with_sshd("app-1");
    host.take_in(&ca, &[]);
    let sshd = host.sshd.as_ref().unwrap();
    assert_eq!(login(&bob, sshd).ok(), "in\n");
    admin
        .hallpass(["key", "revoke", "ssh-user-1", "--reason", "disk lost"])
        .ok();
    host.sync().ok();
    // Also where somebody trusts the old key all the same.
    let trusted = sshd.folder.join("hallpass_user_ca.pub");
    let both =
        fs::read_to_string(&trusted).unwrap() + &admin.hallpass(["trust", "ssh-revoked"]).ok();
    assert_eq!(both.lines().count(), 2);
    fs::write(&trusted, both).unwrap();
    assert_ne!(login(&bob, sshd).code, 0);
    let carol = ca.enrol("carol", &["on-call"]);
    assert_eq!(login(&carol, sshd).ok(), "in\n");
}

#[test]
fn whoever_has_taken_postgresql_over_gets_no_further_by_a_synchronisation() {
    if !is_root() {
        // Then `hallpass host` has no rights that PostgreSQL has not.
        return;
    }
    let ca = Ca::start();
    let host = Host::with_postgres("db-1");
    host.take_in(&ca, &[]);
    let data = host.postgres.as_ref().unwrap().folder.join("data");
    let outside = Folder::new();
    let secret = outside.write("secret", "only root reads this");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o440)).unwrap();
    let config = data.join("postgresql.conf");
    let kept = fs::read(&config).unwrap();
    // What root would read through a link, PostgreSQL's user could read in its place.
    fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink(&secret, &config).unwrap();
    let refused = host.sync();
    assert_eq!(refused.code, 78, "{refused:?}");
    assert!(refused.err.contains("Permission denied"), "{refused:?}");
    let left = Ran::of(&mut host.command("leave"));
    assert_eq!(
        fs::read_to_string(&secret).unwrap(),
        "only root reads this",
        "{left:?}"
    );
    fs::remove_file(&config).ok();
    fs::write(&config, kept).unwrap();
}

#[test]
fn what_a_data_folder_says_is_postgresqls_process_is_signalled_with_its_rights_alone() {
    if !is_root() {
        return;
    }
    let ca = Ca::start();
    let host = Host::with_postgres("db-1");
    host.take_in(&ca, &[]);
    let data = host.postgres.as_ref().unwrap().folder.join("data");
    let mut victim = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let path = data.join("postmaster.pid");
    let text = fs::read_to_string(&path).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&path, format!("{}\n{rest}", victim.id())).unwrap();
    // Something to reload for.
    fs::remove_file(data.join("hallpass_root.pem")).unwrap();
    let refused = host.sync();
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(
        refused.err.contains("can't be told to reload"),
        "{refused:?}"
    );
    assert!(
        victim.try_wait().unwrap().is_none(),
        "root's process goes on"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
    fs::write(&path, text).unwrap();
}

#[test]
fn of_two_that_come_with_one_token_at_once_one_joins() {
    let ca = Ca::start();
    let hosts = [0, 1, 2, 3].map(|_| Host::with_sshd("app-1"));
    let token = hosts[0].invited(&ca.admin(), &[]);
    let joined: Vec<i32> = std::thread::scope(|scope| {
        let (ca, token) = (&ca, &token);
        hosts
            .iter()
            .map(|host| scope.spawn(move || host.join(ca, token).code))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|join| join.join().unwrap())
            .collect()
    });
    assert_eq!(
        joined.iter().filter(|code| **code == 0).count(),
        1,
        "{joined:?}"
    );
    assert_eq!(ca.home.entries("host-joined").len(), 1);
}

#[test]
fn a_trust_bundle_that_the_logs_key_did_not_sign_is_not_taken() {
    let ca = Ca::start();
    let host = Host::with_sshd("app-1");
    host.take_in(&ca, &[]);
    // As for a host that joined a CA which somebody else now plays.
    let other = fs::read_to_string(Home::of_another_ca().path().join("keys/log-1.vkey")).unwrap();
    let path = host.folder.join("state/client.toml");
    let text = fs::read_to_string(&path).unwrap();
    let own = text
        .lines()
        .find(|line| line.starts_with("log_key"))
        .unwrap();
    fs::write(
        &path,
        text.replace(own, &format!("log_key = {:?}", other.trim())),
    )
    .unwrap();
    let before = files(host.sshd.as_ref().unwrap().folder.path());
    ca.admin().hallpass(["key", "rotate", "ssh-user"]).ok();
    let refused = host.sync();
    assert_eq!(refused.code, 76, "{refused:?}");
    assert!(
        refused.err.contains("is not signed by its log's key"),
        "{refused:?}"
    );
    assert_eq!(files(host.sshd.as_ref().unwrap().folder.path()), before);
    // Nor when nobody there shows a certificate that it trusts.
    let renewals = || ca.server_log().matches("has a new certificate").count();
    let before_it = renewals();
    ca.admin()
        .hallpass(["key", "revoke", "x509-root-1", "--reason", "x"])
        .ok();
    wait_until("the server to show the new root's certificate", || {
        renewals() > before_it
    });
    assert!(!ca.server_log().contains("ERROR"), "{}", ca.server_log());
    let refused = host.sync();
    assert_eq!(refused.code, 76, "{refused:?}");
    assert_eq!(files(host.sshd.as_ref().unwrap().folder.path()), before);
}
