//! What verifying has to know of each entry.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::Columns;
use super::scan::Scan;
use crate::audit::firsts::Firsts;
use crate::model::{Serial, Timestamp};

/// What is read out of an entry to verify it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Outline<'a> {
    pub(super) index: u64,
    pub(super) time: Timestamp,
    #[serde(borrow)]
    pub(super) event: EventOutline<'a>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct EventOutline<'a> {
    pub(super) kind: &'a str,
    #[serde(borrow, default, alias = "removed_by")]
    pub(super) by: Option<ByOutline<'a>>,
    #[serde(default)]
    pub(super) user: Option<&'a str>,
    /// Whose request was approved.
    #[serde(default)]
    pub(super) requester: Option<&'a str>,
    #[serde(borrow, default)]
    pub(super) request: Option<RequestOutline<'a>>,
    #[serde(default)]
    pub(super) certificate: Option<CertificateOutline<'a>>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ByOutline<'a> {
    /// None when it is a host.
    #[serde(default)]
    pub(super) requester: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RequestOutline<'a> {
    pub(super) role: &'a str,
    pub(super) purpose: &'a str,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct CertificateOutline<'a> {
    pub(super) form: &'a str,
    pub(super) serial: Serial,
    /// A JSON string, whose escaped line breaks only the check of the certificate has to read.
    #[serde(borrow, deserialize_with = "raw")]
    pub(super) certificate: &'a str,
}

fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    <&RawValue>::deserialize(deserializer).map(RawValue::get)
}

impl<'a> Outline<'a> {
    /// Reads it out of the text of an entry.
    pub(super) fn of(body: &'a str) -> Result<Self, serde_json::Error> {
        match Self::scan(body) {
            Some(outline) => Ok(outline),
            // It says what is wrong, if anything is.
            None => serde_json::from_str(body),
        }
    }

    /// What serde would read, of an entry that looks as the server writes them.
    fn scan(body: &'a str) -> Option<Self> {
        let mut scan = Scan::new(body);
        let (mut index, mut time, mut event) = (None, None, None);
        scan.object(|scan, name| match name {
            "index" => set(&mut index, scan.digits()?.parse().ok()?),
            "time" => set(&mut time, scan.string()?.parse().ok()?),
            "event" => set(&mut event, EventOutline::scan(scan)?),
            _ => scan.skip(),
        })?;
        scan.end()?;
        Some(Self {
            index: index?,
            time: time?,
            event: event?,
        })
    }

    /// What the database should have copied out of it. Asked of one entry after the other.
    pub(super) fn columns(&self, firsts: &mut Firsts) -> Columns<'_> {
        let event = &self.event;
        let (role, purpose) = self.asked();
        let [first_role, first_purpose] = firsts.of(self.index, role, purpose);
        // Who had a policy set loaded was never among what is searched.
        let by = event.by.as_ref().filter(|_| event.kind != "policy-loaded");
        Columns {
            time: self.time.as_millis(),
            kind: event.kind,
            requester: by.and_then(|by| by.requester),
            subject: event.user.or(event.requester),
            first_role,
            first_purpose,
            serial: event
                .certificate
                .as_ref()
                .map(|certificate| certificate.serial.get()),
        }
    }

    /// Whether copies are what the database should have. An entry may have its own role and purpose
    /// there although they are not the first of their group: in schema 4 each had.
    pub(super) fn allows(&self, copied: &Columns<'_>, should_have: &Columns<'_>) -> bool {
        let (role, purpose) = self.asked();
        let fits = |copied: Option<&str>, first: Option<&str>, own| {
            copied == first || first.is_none() && copied == own
        };
        let others = Columns {
            first_role: should_have.first_role,
            first_purpose: should_have.first_purpose,
            ..*copied
        };
        fits(copied.first_role, should_have.first_role, role)
            && fits(copied.first_purpose, should_have.first_purpose, purpose)
            && others == *should_have
    }

    /// The role and the purpose that were asked for.
    fn asked(&self) -> (Option<&'a str>, Option<&'a str>) {
        let request = self.event.request.as_ref();
        request.map(|asked| (asked.role, asked.purpose)).unzip()
    }
}

impl<'a> EventOutline<'a> {
    fn scan(scan: &mut Scan<'a>) -> Option<Self> {
        let (mut kind, mut by, mut user) = (None, None, None);
        let (mut requester, mut request, mut certificate) = (None, None, None);
        scan.object(|scan, name| match name {
            "kind" => set(&mut kind, scan.string()?),
            "by" | "removed_by" => set(&mut by, scan.nullable(ByOutline::scan)?),
            "user" => set(&mut user, scan.nullable(Scan::string)?),
            "requester" => set(&mut requester, scan.nullable(Scan::string)?),
            "request" => set(&mut request, scan.nullable(RequestOutline::scan)?),
            "certificate" => set(&mut certificate, scan.nullable(CertificateOutline::scan)?),
            _ => scan.skip(),
        })?;
        Some(Self {
            kind: kind?,
            by: by.flatten(),
            user: user.flatten(),
            requester: requester.flatten(),
            request: request.flatten(),
            certificate: certificate.flatten(),
        })
    }
}

impl<'a> ByOutline<'a> {
    fn scan(scan: &mut Scan<'a>) -> Option<Self> {
        let mut requester = None;
        scan.object(|scan, name| match name {
            "requester" => set(&mut requester, scan.nullable(Scan::string)?),
            _ => scan.skip(),
        })?;
        Some(Self {
            requester: requester.flatten(),
        })
    }
}

impl<'a> RequestOutline<'a> {
    fn scan(scan: &mut Scan<'a>) -> Option<Self> {
        let (mut role, mut purpose) = (None, None);
        scan.object(|scan, name| match name {
            "role" => set(&mut role, scan.string()?),
            "purpose" => set(&mut purpose, scan.string()?),
            _ => scan.skip(),
        })?;
        Some(Self {
            role: role?,
            purpose: purpose?,
        })
    }
}

impl<'a> CertificateOutline<'a> {
    fn scan(scan: &mut Scan<'a>) -> Option<Self> {
        let (mut form, mut serial, mut certificate) = (None, None, None);
        scan.object(|scan, name| match name {
            "form" => set(&mut form, scan.string()?),
            "serial" => set(&mut serial, scan.string()?.parse().ok()?),
            "certificate" => set(&mut certificate, scan.raw_string()?),
            _ => scan.skip(),
        })?;
        Some(Self {
            form: form?,
            serial: serial?,
            certificate: certificate?,
        })
    }
}

/// A member that is there twice is wrong.
fn set<T>(member: &mut Option<T>, value: T) -> Option<()> {
    member.replace(value).is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::audit::{Entry, Event};
    use crate::model::UserName;

    /// An entry of each kind, and of some kinds more than one.
    fn entries() -> Vec<String> {
        let by = r#"{"requester":"bob","method":"ssh-key","fingerprint":"SHA256:x","source":"192.0.2.7","nonce":"n"}"#;
        let refused = r#"{"request":"POST /v1","code":"denied","detail":"\"no\", \\ \n é"}"#;
        let request =
            r#"{"role":"deploy","purpose":"incident","reason":"say \"why\" ü","ttl":600}"#;
        let decision = r#"{"policies":["a","b"],"policy_set":"sha256:0","circumstances":{"groups":["on-call"],"method":"ssh-key","key_type":"ssh-ed25519","source":"192.0.2.7","time":{"weekday":1,"hour":9,"minute":30}}}"#;
        let certificate = r#"{"form":"x509-client","serial":"117687842870130601","key_id":"CN=app","valid_after":"2026-01-31T09:29:00Z","valid_before":"2026-01-31T09:45:00Z","ca":"SHA256:y","certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}"#;
        let target = r#""role/deploy""#;
        let time = r#""2026-01-31T09:30:00Z""#;
        let events = [
            r#"{"kind":"authority-created","version":"1","keys":[{"purpose":"log","public":"k"}]}"#.to_owned(),
            r#"{"kind":"server-started","version":"1","policy_set":"sha256:0"}"#.to_owned(),
            format!(r#"{{"kind":"clock-corrected","newest":{time}}}"#),
            r#"{"kind":"policy-text","policy_set":"sha256:0","file":"a.cedar","part":1,"parts":2,"text":"permit(\n\t\"x\");\u0001"}"#.to_owned(),
            r#"{"kind":"policy-loaded","policy_set":"sha256:0","files":[]}"#.to_owned(),
            format!(r#"{{"kind":"policy-loaded","policy_set":"sha256:0","files":["a.cedar"],"by":{by}}}"#),
            r#"{"kind":"user-enrolled","user":"eve","groups":["on-call"],"public_key":"k","by":null}"#.to_owned(),
            format!(r#"{{"kind":"user-enrolled","user":"eve","groups":[],"public_key":"k","by":{by}}}"#),
            format!(r#"{{"kind":"user-disabled","user":"eve","by":{by}}}"#),
            format!(r#"{{"kind":"user-enabled","user":"eve","by":{by}}}"#),
            format!(r#"{{"kind":"user-removed","user":"eve","by":{by}}}"#),
            format!(r#"{{"kind":"key-enrolled","user":"eve","public_key":"k","by":{by}}}"#),
            format!(r#"{{"kind":"key-removed","user":"eve","fingerprint":"SHA256:z","by":{by}}}"#),
            r#"{"kind":"user-linked","user":"eve","account":{"provider":"p","subject":"s"}}"#.to_owned(),
            format!(r#"{{"kind":"user-linked","user":"eve","account":{{"provider":"p","subject":"s"}},"by":{by}}}"#),
            format!(r#"{{"kind":"user-unlinked","user":"eve","account":{{"provider":"p","subject":"s"}},"by":{by}}}"#),
            format!(r#"{{"kind":"session-begun","user":"eve","account":{{"provider":"p","subject":"s"}},"public_key":"k","groups":[],"mfa":{{"verified":true,"attested":false,"time":{time}}},"on_device":true,"workload":{{"a":"b"}},"token":{{"sha256":"0","expires":{time}}},"expires":{time},"source":"::1"}}"#),
            format!(r#"{{"kind":"session-touched","touched":"SHA256:z","counter":7,"mfa":{{"verified":true,"attested":false,"time":{time}}},"by":{by}}}"#),
            format!(r#"{{"kind":"session-ended","user":"eve","fingerprint":"SHA256:z","by":{by}}}"#),
            r#"{"kind":"session-ended","user":"eve","fingerprint":"SHA256:z","by":null}"#.to_owned(),
            format!(r#"{{"kind":"approval-given","entry":5,"requester":"eve","request":{request},"expires":{time},"decision":{decision},"by":{by}}}"#),
            format!(r#"{{"kind":"certificate-issued","by":{by},"request":{request},"decision":{decision},"certificate":{certificate}}}"#),
            format!(r#"{{"kind":"host-certificate-issued","by":{by},"names":["db.example"],"decision":{decision},"certificate":{certificate}}}"#),
            format!(r#"{{"kind":"server-certificate-issued","names":["ca.example"],"certificate":{certificate}}}"#),
            format!(r#"{{"kind":"request-refused","by":{by},"request":null,"refused":{refused},"decision":null}}"#),
            format!(r#"{{"kind":"request-refused","by":{by},"request":{request},"refused":{refused},"decision":{decision}}}"#),
            format!(r#"{{"kind":"unauthenticated-refused","source":"192.0.2.7","fingerprint":null,"refused":{refused},"unlisted":0}}"#),
            format!(r#"{{"kind":"unauthenticated-refused","source":"192.0.2.7","fingerprint":"SHA256:z","host":"db","refused":{refused},"unlisted":0}}"#),
            format!(r#"{{"kind":"counter-went-back","user":"eve","fingerprint":"SHA256:z","counter":6,"newest":7,"source":"192.0.2.7","refused":{refused}}}"#),
            format!(r#"{{"kind":"host-invited","profile":{{"host":"db","names":["db.example"],"ssh":true,"database":false,"ttl":3600}},"token_sha256":"0","expires":{time},"by":{by}}}"#),
            r#"{"kind":"host-joined","host":"db","public_key":"k","source":"192.0.2.7"}"#.to_owned(),
            format!(r#"{{"kind":"host-certificate-renewed","by":{{"host":"db","fingerprint":"SHA256:z","source":"192.0.2.7","nonce":"n"}},"names":["db.example"],"certificate":{certificate}}}"#),
            r#"{"kind":"host-confirmed","host":"db","trust":3,"source":"192.0.2.7"}"#.to_owned(),
            r#"{"kind":"host-removed","host":"db","removed_by":null}"#.to_owned(),
            format!(r#"{{"kind":"host-removed","host":"db","removed_by":{by}}}"#),
            format!(r#"{{"kind":"locked","target":{target},"reason":"x","by":{by}}}"#),
            format!(r#"{{"kind":"unlocked","target":{target},"by":{by}}}"#),
            r#"{"kind":"ca-key-staged","new":{"key":"ssh-user-2","public":"k"},"by":null}"#.to_owned(),
            format!(r#"{{"kind":"ca-key-activated","key":"ssh-user-2","cross":"a\n","by":{by}}}"#),
            format!(r#"{{"kind":"ca-key-retired","key":"ssh-user-1","by":{by}}}"#),
            format!(r#"{{"kind":"ca-key-cancelled","key":"ssh-user-2","by":{by}}}"#),
            format!(r#"{{"kind":"ca-key-revoked","key":"ssh-user-2","reason":"x","successors":[{{"key":"ssh-user-3","public":"k"}}],"by":{by}}}"#),
            format!(r#"{{"kind":"log-archived","file":"f","sha256":"0","first":0,"next":256,"kept":9,"by":{by}}}"#),
            format!(r#"{{"kind":"log-restored","size":18446744073709551615,"backup":{time}}}"#),
            r#"{"kind":"request-failed"}"#.to_owned(),
        ];
        let entry = |event: &String| {
            let salts = ["", r#","salt":"yNAXzmu8vv-ivYEjVM7U_A""#];
            salts.map(|salt| {
                format!(
                    r#"{{"index":1042,"time":"2026-01-31T09:30:00.250Z","event":{event}{salt}}}"#
                )
            })
        };
        events.iter().flat_map(entry).collect()
    }

    /// What the log's writer puts into the columns.
    fn written(entry: &Entry) -> (u64, &str, [Option<&str>; 4], Option<u64>) {
        let event = &entry.event;
        let request = event.request();
        let texts = [
            event.requester().map(UserName::as_str),
            event.subject().map(UserName::as_str),
            request.map(|asked| asked.role.as_str()),
            request.map(|asked| asked.purpose.as_str()),
        ];
        let serial = event.certificate().map(|issued| issued.serial.get());
        (entry.time.as_millis(), event.kind(), texts, serial)
    }

    #[test]
    fn of_each_kind_it_is_what_the_entry_says() {
        let mut kinds = Vec::new();
        for body in entries() {
            let entry: Entry = serde_json::from_str(&body).expect(&body);
            assert_eq!(serde_json::to_string(&entry).unwrap(), body);
            let outline = Outline::of(&body).unwrap();
            assert_eq!((outline.index, outline.time), (entry.index.0, entry.time));
            let columns = outline.columns(&mut Firsts::default());
            let texts = [
                columns.requester,
                columns.subject,
                columns.first_role,
                columns.first_purpose,
            ];
            let columns = (columns.time, columns.kind, texts, columns.serial);
            assert_eq!(columns, written(&entry), "{body}");
            let certificate = outline.event.certificate.map(|outline| {
                let text: String = serde_json::from_str(outline.certificate).unwrap();
                (outline.form.to_owned(), text)
            });
            let recorded = entry.event.certificate().cloned();
            let recorded = recorded.map(|recorded| (recorded.form, recorded.certificate));
            assert_eq!(certificate, recorded, "{body}");
            kinds.push(entry.event.kind().to_owned());
        }
        // Serde names all that there are.
        let unknown = serde_json::from_str::<Event>(r#"{"kind":"?"}"#)
            .unwrap_err()
            .to_string();
        for kind in unknown.split('`').skip(3).step_by(2) {
            assert!(kinds.iter().any(|known| known == kind), "{kind}");
        }
    }

    #[test]
    fn each_kind_has_a_nonce_or_is_salted() {
        for body in entries() {
            let entry: Entry = serde_json::from_str(&body).unwrap();
            let fails = matches!(entry.event, Event::RequestFailed);
            let has_nonce = body.contains(r#""nonce":"#);
            assert!(has_nonce || fails || entry.event.is_guessable(), "{body}");
        }
    }

    #[test]
    fn what_the_server_writes_is_scanned() {
        for body in entries() {
            let all: Outline<'_> = serde_json::from_str(&body).unwrap();
            // Serde writes control characters other than these with \u, which is rare.
            assert_eq!(
                Outline::scan(&body).is_some(),
                !body.contains(r"\u"),
                "{body}"
            );
            assert_eq!(Outline::of(&body).unwrap(), all);
        }
    }

    /// What serde says is said, and the scan never says anything else.
    fn agrees(text: &str) {
        let all = serde_json::from_str::<Outline<'_>>(text);
        if let Some(scanned) = Outline::scan(text) {
            assert_eq!(Some(&scanned), all.as_ref().ok(), "{text}");
        }
        let said = |outline: Result<Outline<'_>, serde_json::Error>| match outline {
            Ok(outline) => format!("{outline:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(Outline::of(text)), said(all), "{text}");
    }

    #[test]
    fn what_is_odd_is_what_serde_says() {
        let entry =
            |event: &str| format!(r#"{{"index":1,"time":"2026-01-31T09:30:00Z","event":{event}}}"#);
        for event in [
            r#"{"kind":"a","kind":"b"}"#,
            r#"{"kind":"a","by":null,"by":null}"#,
            r#"{"kind":"a","by":null,"removed_by":{"requester":"bob"}}"#,
            r#"{"kind":"a","user":"x","user":"y"}"#,
            r#"{"kind":"a","other":1,"other":2}"#,
            r#"{"kind":"\u0061"}"#,
            r#"{"kin\u0064":"a"}"#,
            r#"{"kind":"a\n"}"#,
            r#"{"kind":null}"#,
            r#"{"kind":1}"#,
            r#"{"user":"x"}"#,
            r#"{"kind":"a","user":"a\"b"}"#,
            r#"{"kind":"a","user":1}"#,
            r#"{"kind":"a","by":[null]}"#,
            r#"{"kind":"a","by":["bob"]}"#,
            r#"{"kind":"a","by":{"requester":"bob","requester":"eve"}}"#,
            r#"{"kind":"a","request":["r","p"]}"#,
            r#"{"kind":"a","request":{"role":"r"}}"#,
            r#"{"kind":"a","request":{"role":null,"purpose":"p"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"0","certificate":"c"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"-1","certificate":"c"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"9223372036854775808","certificate":"c"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"+7","certificate":"c"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"007","certificate":"c"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":7,"certificate":"c"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"7","certificate":{"a":"\u0000"}}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"7","certificate":"\ud800"}}"#,
            r#"{"kind":"a","certificate":{"form":"f","serial":"7"}}"#,
            r#"{"kind":"a","x":1e400,"y":-0,"z":0.10}"#,
            r#"{"kind":"a","x":-}"#,
            r#"{"kind":"a" }"#,
            "{\"kind\":\n\"a\"}",
            "{\"kind\":\"a\u{0}\"}",
            r#"{"kind":"a","x":"\x"}"#,
            r#"["a",null,null,null,null]"#,
            r#""a""#,
            "null",
            "{}",
        ] {
            agrees(&entry(event));
        }
        let event = r#"{"kind":"a"}"#;
        for text in [
            format!(r#"{{"index":01,"time":"2026-01-31T09:30:00Z","event":{event}}}"#),
            format!(r#"{{"index":-1,"time":"2026-01-31T09:30:00Z","event":{event}}}"#),
            format!(r#"{{"index":1.0,"time":"2026-01-31T09:30:00Z","event":{event}}}"#),
            format!(
                r#"{{"index":18446744073709551615,"time":"2026-01-31T09:30:00Z","event":{event}}}"#
            ),
            format!(
                r#"{{"index":18446744073709551616,"time":"2026-01-31T09:30:00Z","event":{event}}}"#
            ),
            format!(r#"{{"index":"1","time":"2026-01-31T09:30:00Z","event":{event}}}"#),
            format!(r#"{{"index":1,"time":"2026-01-31T09:30:00+01:00","event":{event}}}"#),
            format!(r#"{{"index":1,"time":"2026-02-31T09:30:00Z","event":{event}}}"#),
            format!(r#"{{"index":1,"time":"9999-12-31T23:59:60Z","event":{event}}}"#),
            format!(r#"{{"index":1,"time":1,"event":{event}}}"#),
            format!(r#"{{"index":1,"index":1,"time":"2026-01-31T09:30:00Z","event":{event}}}"#),
            format!(
                r#"{{"event":{event},"time":"2026-01-31T09:30:00Z","index":1,"more":[{event}]}}"#
            ),
            format!(r#" {{"index":1,"time":"2026-01-31T09:30:00Z","event":{event}}}"#),
            format!(r#"{{"index":1,"time":"2026-01-31T09:30:00Z","event":{event}}} "#),
            format!(r#"{{"index":1,"time":"2026-01-31T09:30:00Z","event":{event}}}x"#),
            format!(r#"{{"index":1,"time":"2026-01-31T09:30:00Z","event":{event}}}{event}"#),
            format!(r#"{{"index":1,"time":"2026-01-31T09:30:00Z","event":{event},}}"#),
            format!(r#"[1,"2026-01-31T09:30:00Z",{event}]"#),
            format!(r#"{{"index":1,"event":{event}}}"#),
            String::new(),
        ] {
            agrees(&text);
        }
    }

    #[test]
    fn what_is_cut_short_is_what_serde_says() {
        for body in entries() {
            for end in 0..body.len() {
                agrees(body.get(..end).unwrap_or_default());
            }
        }
    }

    /// Pieces of text that entries are made of, and some that they are not.
    const PIECES: [&str; 24] = [
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "0",
        "-",
        ".",
        "e9",
        " ",
        "\n",
        "\u{1}",
        "null",
        "true",
        "\\n",
        "\\u0041",
        "\"by\":null,",
        "\"kind\":\"a\",",
        "\"user\":\"x\",",
        "é",
        "\"\"",
    ];

    proptest! {
        #[test]
        fn whatever_is_changed_is_what_serde_says(
            which in any::<Index>(),
            changes in prop::collection::vec((any::<Index>(), 0..4_usize, prop::sample::select(&PIECES[..])), 1..4),
        ) {
            let mut body = which.get(&entries()).clone();
            for (place, removed, piece) in changes {
                let mut places: Vec<usize> = body.char_indices().map(|(place, _)| place).collect();
                places.push(body.len());
                let place = place.index(places.len());
                let end = (place + removed).min(places.len() - 1);
                body.replace_range(places[place]..places[end], piece);
                agrees(&body);
            }
        }
    }
}
