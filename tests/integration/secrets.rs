//! Where the CA's private keys and the passphrase are, and where they are not: the memory of the
//! server as root sees it, core dumps, and every file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use age::{scrypt, x25519};
use flate2::read::GzDecoder;
use regex::bytes::{Regex, RegexBuilder};
use ring::digest::{SHA512, digest};

use crate::support::{
    Ca, Home, PASSPHRASE, Person, Ran, is_root, program, short_lived, wait_until,
};

/// What the CA's own pages must be: locked, not dumped, wiped in children.
const GUARDED: [&str; 3] = ["lo", "dd", "wf"];

/// What is done with keys, and which are open afterwards.
const LIVE: [(&str, &str); 9] = [
    ("", "log-1 seal ssh-host-1 ssh-user-1 x509-issuing-1"),
    (
        "rotate ssh-user",
        "log-1 seal ssh-host-1 ssh-user-1 ssh-user-2 x509-issuing-1",
    ),
    (
        "activate ssh-user-2",
        "log-1 seal ssh-host-1 ssh-user-1 ssh-user-2 x509-issuing-1",
    ),
    (
        "retire ssh-user-1 --force test",
        "log-1 seal ssh-host-1 ssh-user-2 x509-issuing-1",
    ),
    (
        "rotate ssh-host",
        "log-1 seal ssh-host-1 ssh-host-2 ssh-user-2 x509-issuing-1",
    ),
    (
        "cancel ssh-host-2",
        "log-1 seal ssh-host-1 ssh-user-2 x509-issuing-1",
    ),
    (
        "revoke ssh-host-1 --reason test",
        "log-1 seal ssh-host-3 ssh-user-2 x509-issuing-1",
    ),
    (
        "rotate x509-root",
        "log-1 seal ssh-host-3 ssh-user-2 x509-issuing-1",
    ),
    (
        "activate x509-root-2 --force test",
        "log-1 seal ssh-host-3 ssh-user-2 x509-issuing-1 x509-issuing-2",
    ),
];

#[test]
fn secrets_are_in_the_pages_of_live_keys_and_nowhere_else() {
    let ca = Ca::on(short_lived("3s", "4s"));
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let key = |line: &str| {
        let arguments = ["key"].into_iter().chain(line.split(' '));
        admin.hallpass(arguments).ok();
        are_live(&ca, LIVE.iter().find(|(step, _)| *step == line).unwrap().1);
    };
    are_live(&ca, LIVE[0].1);
    issue(&admin, &bob);
    are_live(&ca, LIVE[0].1);
    for (line, _) in &LIVE[1..] {
        key(line);
    }
    issue(&admin, &bob);
    are_live(&ca, LIVE[LIVE.len() - 1].1);

    let secrets = Secrets::of(&ca.home);
    let backup = ca.home.folder.join("backup.tar.gz");
    Ran::of(
        program()
            .arg("backup")
            .arg(&backup)
            .arg("--home")
            .arg(ca.home.path()),
    )
    .ok();
    let mut unpacked = Vec::new();
    let packed = File::open(&backup).unwrap();
    GzDecoder::new(packed).read_to_end(&mut unpacked).unwrap();
    assert_eq!(secrets.within(&unpacked), BTreeSet::new(), "the backup");
    let mut seen = BTreeSet::new();
    for path in files(ca.home.folder.path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // The passphrase's own, and the administrator's.
        if name != "passphrase" && name != "admin" {
            let content = fs::read(&path).unwrap();
            assert_eq!(secrets.within(&content), BTreeSet::new(), "{path:?}");
        }
        seen.insert(name);
    }
    for name in [
        "hallpass.db",
        "hallpass.db-wal",
        "serve.log",
        "backup.tar.gz",
        "roles.toml",
        "seal.age",
        "passphrase",
    ] {
        assert!(seen.contains(name), "{name} was looked at: {seen:?}");
    }
}

#[test]
fn no_core_is_dumped_even_when_the_limit_is_raised() {
    let folder = crate::support::Folder::new();
    let home = Home::new();
    let mut ca = Ca::with(home, |serve| {
        serve.current_dir(folder.path());
    });
    if is_root() {
        let pid = i32::try_from(ca.pid()).unwrap();
        let all = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the struct lives through the call.
        let set =
            unsafe { libc::prlimit(pid, libc::RLIMIT_CORE, &raw const all, std::ptr::null_mut()) };
        if set != 0 {
            // Root without CAP_SYS_RESOURCE can't either.
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let limit = limits
                .lines()
                .find(|line| line.contains("core file"))
                .unwrap();
            let words: Vec<&str> = limit.split_whitespace().collect();
            assert_eq!(words[4..6], ["0", "0"], "{limit}");
        }
    }
    ca.signal(libc::SIGABRT);
    let ended = ca.ended();
    assert_eq!(ended.signal(), Some(libc::SIGABRT));
    assert!(!ended.core_dumped());
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_server_that_crashes_leaves_no_core_where_another_program_leaves_one() {
    let folder = crate::support::Folder::new();
    let unlimited = |command: &mut Command| {
        command.current_dir(folder.path());
        // SAFETY: both calls are safe between fork and exec, and the struct lives through them.
        unsafe {
            command.pre_exec(|| {
                let mut limit = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
                Ok(())
            });
        }
    };
    let core_limit = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.contains("core file"));
        let words: Vec<String> = line
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        words[4..6].to_vec()
    };
    let mut other = Command::new("sleep");
    other.arg("60");
    unlimited(&mut other);
    let mut other = other.spawn().unwrap();
    let allowed = core_limit(other.id());
    // SAFETY: our own child, not waited for yet.
    unsafe { libc::kill(i32::try_from(other.id()).unwrap(), libc::SIGSEGV) };
    let ended = other.wait().unwrap();
    assert_eq!(ended.signal(), Some(libc::SIGSEGV));
    // Where the system pipes cores to a program, or a limit can't be raised, there is no file either.
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if allowed[0] != "0" && !pattern.starts_with(['|', '/']) {
        assert!(ended.core_dumped(), "{allowed:?}, {pattern}");
    }
    for core in files(folder.path()) {
        fs::remove_file(core).unwrap();
    }

    let mut ca = Ca::with(Home::new(), unlimited);
    assert_eq!(core_limit(ca.pid()), ["0", "0"]);
    // Rust's own handler takes the first for a stack that is full, finds none, and steps aside.
    wait_until("its end", || {
        ca.signal(libc::SIGSEGV);
        let state = fs::read_to_string(format!("/proc/{}/stat", ca.pid())).unwrap();
        state.contains(") Z ")
    });
    let ended = ca.ended();
    assert_eq!(ended.signal(), Some(libc::SIGSEGV));
    assert!(!ended.core_dumped());
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

/// Looks through all of a server's memory for every key that it ever had. Exactly those must be
/// there, in their own pages alone.
#[track_caller]
fn are_live(ca: &Ca, keys: &str) {
    if !is_root() {
        // Somebody with the server's own account has no way in.
        let refused = File::open(format!("/proc/{}/mem", ca.pid())).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        return;
    }
    let secrets = Secrets::of(&ca.home);
    // What a thread maps that ends meanwhile could not be read, and what moves could be missed.
    ca.signal(libc::SIGSTOP);
    wait_until("all its threads stand still", || {
        let threads = fs::read_dir(format!("/proc/{}/task", ca.pid())).unwrap();
        let mut states =
            threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")));
        states.all(|state| state.is_ok_and(|state| state.contains(") T ")))
    });
    let found = secrets.in_memory(ca.pid());
    ca.signal(libc::SIGCONT);
    let (guarded, leaked): (Vec<_>, Vec<_>) = found.into_iter().partition(Found::is_guarded);
    let leaked: Vec<String> = leaked.iter().map(Found::to_string).collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
    let live: BTreeSet<String> = guarded.iter().map(Found::key).collect();
    assert_eq!(live.into_iter().collect::<Vec<_>>().join(" "), keys);
}

fn issue(admin: &Person, bob: &Person) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| certificates(admin, bob));
        }
    });
}

fn certificates(admin: &Person, bob: &Person) {
    bob.request("server-operator --purpose incident --reason x");
    bob.request("patients-read --purpose incident --reason INC-1");
    let name = format!("host-{:?}.pub", std::thread::current().id());
    let name = name.replace(['(', ')'], "");
    let line = fs::read(bob.folder.join("key.pub")).unwrap();
    let key = admin.folder.write(&name, line);
    let arguments = ["host-cert", "ssh", key.to_str().unwrap(), "--name", "app-1"];
    admin.hallpass(arguments).ok();
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// The secrets of a home, in every form that programs are known to hold them in.
struct Secrets {
    /// Pieces of 16 bytes, each with the name of what it is of.
    pieces: BTreeMap<Vec<u8>, String>,
    any: Regex,
}

/// A piece of a secret in a server's memory.
struct Found {
    secret: String,
    address: u64,
    mapping: String,
    flags: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            secret,
            address,
            mapping,
            ..
        } = self;
        write!(f, "{secret} at {address:x} in {mapping}")
    }
}

impl Found {
    fn is_guarded(&self) -> bool {
        let has = |flag: &&str| self.flags.iter().any(|has| has == flag);
        GUARDED.iter().all(has)
    }

    /// Which key it is of.
    fn key(&self) -> String {
        self.secret.split(' ').next().unwrap().to_owned()
    }
}

impl Secrets {
    /// Opens every key of a home as who has the passphrase can.
    fn of(home: &Home) -> Self {
        let keys = home.path().join("keys");
        let mut secrets = Self {
            pieces: BTreeMap::new(),
            any: Regex::new("").unwrap(),
        };
        secrets.add("passphrase", PASSPHRASE.as_bytes());
        for (pad, byte) in [("inner", 0x36), ("outer", 0x5c)] {
            // As HMAC has it.
            let padded: Vec<u8> = PASSPHRASE.bytes().map(|own| own ^ byte).collect();
            secrets.add(&format!("passphrase with the {pad} pad"), &padded);
        }
        let mut passphrase = scrypt::Identity::new(PASSPHRASE.to_owned().into());
        passphrase.set_max_work_factor(20);
        let text = age::decrypt(&passphrase, &fs::read(keys.join("seal.age")).unwrap()).unwrap();
        let text = String::from_utf8(text).unwrap();
        secrets.add("seal identity", text.trim().as_bytes());
        secrets.add("seal identity", text.trim().to_lowercase().as_bytes());
        secrets.add("seal key", &from_bech32(text.trim()));
        let seal = x25519::Identity::from_str(text.trim()).unwrap();
        let mut count = 0;
        for path in files(&keys) {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_none_or(|ending| ending != "age") || name == "seal" {
                continue;
            }
            count += 1;
            let document = age::decrypt(&seal, &fs::read(&path).unwrap()).unwrap();
            if name.starts_with("x509") {
                secrets.add_p256(&name, &document);
            } else {
                secrets.add_ed25519(&name, &document);
            }
        }
        assert!(count >= 5, "{count} keys");
        let literals: Vec<String> = secrets
            .pieces
            .keys()
            .map(|piece| piece.iter().map(|byte| format!("\\x{byte:02x}")).collect())
            .collect();
        secrets.any = RegexBuilder::new(&literals.join("|"))
            .unicode(false)
            .size_limit(1 << 28)
            .build()
            .unwrap();
        secrets
    }

    /// The seed stands 16 bytes into the document. From it come what multiplies and what makes
    /// nonces.
    fn add_ed25519(&mut self, name: &str, document: &[u8]) {
        let seed = &document[16..48];
        self.add(&format!("{name} seed"), seed);
        let expanded = digest(&SHA512, seed);
        let (scalar, prefix) = expanded.as_ref().split_at(32);
        let mut masked = scalar.to_vec();
        masked[0] &= 0xf8;
        masked[31] = masked[31] & 0x7f | 0x40;
        self.add(&format!("{name} scalar"), scalar);
        self.add(&format!("{name} scalar"), &masked);
        self.add(&format!("{name} prefix"), prefix);
    }

    /// The scalar stands 36 bytes into the document.
    fn add_p256(&mut self, name: &str, document: &[u8]) {
        let scalar = &document[36..68];
        self.add(&format!("{name} scalar"), scalar);
        let montgomery = montgomery(scalar);
        self.add(&format!("{name} scalar at work"), &montgomery);
    }

    /// As it is, backwards, and with the words swapped as hash functions take them in.
    fn add(&mut self, name: &str, secret: &[u8]) {
        let backwards: Vec<u8> = secret.iter().rev().copied().collect();
        let mut forms = vec![secret.to_vec(), backwards];
        for word in [4, 8] {
            let swapped = secret.chunks_exact(word);
            forms.push(
                swapped
                    .flat_map(|word| word.iter().rev())
                    .copied()
                    .collect(),
            );
        }
        for form in forms {
            for piece in form.chunks_exact(16) {
                self.pieces.insert(piece.to_vec(), name.to_owned());
            }
        }
    }

    /// The names of the secrets that stand there.
    fn within(&self, bytes: &[u8]) -> BTreeSet<String> {
        let found = self.any.find_iter(bytes);
        found
            .map(|found| self.pieces[found.as_bytes()].clone())
            .collect()
    }

    /// Everything that a process has mapped and can read.
    fn in_memory(&self, pid: u32) -> Vec<Found> {
        let memory = File::open(format!("/proc/{pid}/mem"))
            .unwrap_or_else(|error| panic!("root without CAP_SYS_PTRACE? {error}"));
        let mut found = Vec::new();
        let mut bytes = 0;
        for mapping in mappings(pid) {
            // The kernel's own, of which there is nothing to read.
            if !mapping.is_readable || mapping.line.contains("[v") {
                continue;
            }
            let length = usize::try_from(mapping.end - mapping.start).unwrap();
            let mut content = vec![0; length];
            let read = memory.read_exact_at(&mut content, mapping.start);
            read.unwrap_or_else(|error| panic!("{}: {error}", mapping.line));
            bytes += length;
            for one in self.any.find_iter(&content) {
                found.push(Found {
                    secret: self.pieces[one.as_bytes()].clone(),
                    address: mapping.start + one.start() as u64,
                    mapping: mapping.line.clone(),
                    flags: mapping.flags.clone(),
                });
            }
        }
        assert!(bytes > 10 << 20, "{bytes} bytes");
        found
    }
}

struct Mapping {
    start: u64,
    end: u64,
    is_readable: bool,
    line: String,
    flags: Vec<String>,
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let flags = flags.split_whitespace().map(str::to_owned);
            mappings.last_mut().unwrap().flags = flags.collect();
            continue;
        }
        let (range, rest) = line.split_once(' ').unwrap();
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        mappings.push(Mapping {
            start: address(start),
            end: address(end),
            is_readable: rest.starts_with('r'),
            line: line.to_owned(),
            flags: Vec::new(),
        });
    }
    mappings
}

/// The 32 bytes in an identity of age's.
fn from_bech32(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
    let (_, data) = text.rsplit_once('1').unwrap();
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    // Six digits are a checksum.
    for digit in data.bytes().take(data.len() - 6) {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        bits = bits << 5 | u32::try_from(value).unwrap();
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    assert_eq!(bytes.len(), 32);
    bytes
}

/// A scalar of P-256 times 2^256 modulo the group's order, least byte first: so arithmetic has it.
fn montgomery(scalar: &[u8]) -> Vec<u8> {
    const ORDER: [u64; 4] = [
        0xf3b9_cac2_fc63_2551,
        0xbce6_faad_a717_9e84,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_0000_0000,
    ];
    let mut value = [0_u64; 4];
    for (limb, bytes) in value.iter_mut().rev().zip(scalar.chunks_exact(8)) {
        *limb = u64::from_be_bytes(bytes.try_into().unwrap());
    }
    for _ in 0..256 {
        let carry = value[3] >> 63 == 1;
        for place in (0..4).rev() {
            let below = if place == 0 {
                0
            } else {
                value[place - 1] >> 63
            };
            value[place] = value[place] << 1 | below;
        }
        let is_larger = value.iter().rev().ge(ORDER.iter().rev());
        if carry || is_larger {
            let mut borrow = false;
            for (limb, order) in value.iter_mut().zip(ORDER) {
                let (without, first) = limb.overflowing_sub(order);
                let (without, second) = without.overflowing_sub(u64::from(borrow));
                (*limb, borrow) = (without, first || second);
            }
        }
    }
    value.iter().flat_map(|limb| limb.to_le_bytes()).collect()
}
