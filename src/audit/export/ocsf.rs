//! Exports as events of the Open Cybersecurity Schema Framework, version 1.1.0, for a SIEM.
//!
//! Each kind of entry becomes the class that says it best; the entry itself is `raw_data`.

use serde::Serialize;
use serde_json::Value;

use crate::model::Timestamp;

const SCHEMA_VERSION: &str = "1.1.0";
const INFORMATIONAL: u8 = 1;
const LOW: u8 = 2;
const HIGH: u8 = 4;

/// The classes of events that entries become.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// What no class fits.
    Base = 0,
    AccountChange = 3001,
    Authentication = 3002,
    EntityManagement = 3004,
    ApplicationLifecycle = 6002,
    ApiActivity = 6003,
}

impl Class {
    fn category(self) -> u32 {
        self as u32 / 1000
    }
}

/// What happened within a class: its number and, where that is 99, its name.
type Activity = (u32, Option<&'static str>);

const CREATE: Activity = (1, None);

#[derive(Serialize)]
struct Record<'a> {
    activity_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity_name: Option<&'a str>,
    category_uid: u32,
    class_uid: u32,
    type_uid: u32,
    severity_id: u8,
    time: u64,
    status_id: u8,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_detail: Option<&'a str>,
    message: String,
    metadata: Metadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<Actor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_endpoint: Option<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<Api<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<[Resource<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<Entity<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<Product<'a>>,
    raw_data: &'a str,
}

#[derive(Serialize)]
struct Metadata<'a> {
    version: &'static str,
    product: Product<'a>,
    uid: String,
    event_code: &'a str,
    original_time: &'a str,
}

#[derive(Serialize)]
struct Product<'a> {
    name: &'static str,
    vendor_name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

#[derive(Serialize)]
struct Actor<'a> {
    user: User<'a>,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_uid: Option<&'a str>,
    type_id: u8,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    ip: &'a str,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Api<'a> {
    operation: &'a str,
    service: Named<'a>,
}

#[derive(Serialize)]
struct Resource<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

#[derive(Serialize)]
struct Entity<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
}

const HALLPASS: &str = "Hallpass";

/// An entry as a line. `text` is how the log has it.
pub(super) fn line(entry: &Value, text: &str) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string(&record(entry, text))? + "\n")
}

/// The entry in a line, when it is a line.
pub(super) fn entry(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    event["raw_data"].as_str().map(str::to_owned)
}

fn record<'a>(entry: &'a Value, text: &'a str) -> Record<'a> {
    let event = &entry["event"];
    let kind = event["kind"].as_str().unwrap_or_default();
    let time = entry["time"].as_str().unwrap_or_default();
    let (class, (activity, name)) = class(kind);
    let by = &event["by"];
    let requester = by["requester"].as_str();
    let fingerprint = by["fingerprint"].as_str();
    let source = event["source"].as_str().or_else(|| by["source"].as_str());
    let refused = &event["refused"];
    let failed = !refused.is_null() || kind == "request-failed";
    let certificate = &event["certificate"];
    Record {
        activity_id: activity,
        activity_name: name,
        category_uid: class.category(),
        class_uid: class as u32,
        type_uid: class as u32 * 100 + activity,
        severity_id: match kind {
            "counter-went-back" => HIGH,
            _ if failed => LOW,
            _ => INFORMATIONAL,
        },
        time: time.parse().map_or(0, Timestamp::as_millis),
        status_id: if failed { 2 } else { 1 },
        status: if failed { "Failure" } else { "Success" },
        status_code: refused["code"].as_str(),
        status_detail: refused["detail"].as_str(),
        message: message(kind, event),
        metadata: Metadata {
            version: SCHEMA_VERSION,
            product: product(None),
            uid: entry["index"].to_string(),
            event_code: kind,
            original_time: time,
        },
        actor: requester.map(|name| Actor {
            user: user(Some(name), fingerprint),
        }),
        src_endpoint: source.map(|ip| Endpoint { ip }),
        user: match class {
            Class::AccountChange => {
                Some(user(event["user"].as_str(), event["fingerprint"].as_str()))
            }
            // Of a refusal, nobody was identified.
            Class::Authentication => {
                let name = event["user"].as_str().or(requester).unwrap_or("unknown");
                Some(user(Some(name), event["fingerprint"].as_str()))
            }
            _ => None,
        },
        service: (class == Class::Authentication).then_some(Named { name: HALLPASS }),
        api: (class == Class::ApiActivity).then(|| Api {
            operation: refused["request"].as_str().unwrap_or(kind),
            service: Named { name: HALLPASS },
        }),
        resources: (class == Class::ApiActivity).then(|| {
            [match certificate["form"].as_str() {
                Some(form) => Resource {
                    name: certificate["key_id"].as_str(),
                    kind: form,
                    uid: certificate["serial"].as_str(),
                },
                None => Resource {
                    name: event["request"]["role"].as_str(),
                    kind: "role",
                    uid: None,
                },
            }]
        }),
        entity: (class == Class::EntityManagement).then(|| entity(kind, event)),
        app: (class == Class::ApplicationLifecycle).then(|| product(event["version"].as_str())),
        raw_data: text,
    }
}

/// The class and the activity in it that fit a kind best.
fn class(kind: &str) -> (Class, Activity) {
    const UPDATE: Activity = (3, None);
    match kind {
        "authority-created" => (Class::ApplicationLifecycle, (1, None)),
        "server-started" => (Class::ApplicationLifecycle, (3, None)),
        "log-restored" => (Class::ApplicationLifecycle, (99, Some("Restore"))),
        "user-enrolled" => (Class::AccountChange, CREATE),
        "user-enabled" => (Class::AccountChange, (2, None)),
        "user-disabled" => (Class::AccountChange, (5, None)),
        "user-removed" => (Class::AccountChange, (6, None)),
        "key-enrolled" => (Class::AccountChange, (99, Some("Key Enrol"))),
        "counter-went-back" => (Class::AccountChange, (99, Some("Key Lock"))),
        "key-removed" => (Class::AccountChange, (99, Some("Key Remove"))),
        "user-linked" => (Class::AccountChange, (99, Some("Account Link"))),
        "user-unlinked" => (Class::AccountChange, (99, Some("Account Unlink"))),
        "session-begun" => (Class::Authentication, (1, None)),
        "session-touched" => (Class::Authentication, (99, Some("Second Factor"))),
        "session-ended" => (Class::Authentication, (2, None)),
        "approval-given" => (Class::ApiActivity, (99, Some("Approve"))),
        "certificate-issued" | "host-certificate-issued" => (Class::ApiActivity, CREATE),
        "host-invited" | "host-joined" | "host-certificate-renewed" => {
            (Class::EntityManagement, CREATE)
        }
        "host-confirmed" => (Class::EntityManagement, UPDATE),
        "host-removed" => (Class::EntityManagement, (4, None)),
        "request-refused" => (Class::ApiActivity, (99, Some("Refuse"))),
        "unauthenticated-refused" => (Class::Authentication, (1, None)),
        "server-certificate-issued" => (Class::EntityManagement, CREATE),
        "policy-text" | "policy-loaded" | "clock-corrected" => (Class::EntityManagement, UPDATE),
        "log-archived" => (Class::EntityManagement, (99, Some("Archive"))),
        "locked" => (Class::EntityManagement, (99, Some("Lock"))),
        "unlocked" => (Class::EntityManagement, (99, Some("Unlock"))),
        "ca-key-staged" => (Class::EntityManagement, CREATE),
        "ca-key-activated" | "ca-key-retired" => (Class::EntityManagement, UPDATE),
        "ca-key-cancelled" => (Class::EntityManagement, (99, Some("Cancel"))),
        "ca-key-revoked" => (Class::EntityManagement, (99, Some("Revoke"))),
        _ => (Class::Base, (99, Some("Other"))),
    }
}

fn entity<'a>(kind: &'a str, event: &'a Value) -> Entity<'a> {
    let (kind, name) = match kind {
        "server-certificate-issued" => ("certificate", &event["certificate"]["key_id"]),
        "policy-text" | "policy-loaded" => ("policy", &event["policy_set"]),
        "log-archived" => ("file", &event["file"]),
        "locked" | "unlocked" => ("lock", &event["target"]),
        "host-invited" => ("host", &event["profile"]["host"]),
        "host-joined" | "host-confirmed" | "host-removed" => ("host", &event["host"]),
        "host-certificate-renewed" => ("certificate", &event["certificate"]["key_id"]),
        "ca-key-staged" => ("CA key", &event["new"]["key"]),
        "ca-key-activated" | "ca-key-retired" | "ca-key-cancelled" | "ca-key-revoked" => {
            ("CA key", &event["key"])
        }
        _ => ("clock", &event["newest"]),
    };
    Entity {
        name: name.as_str().unwrap_or(kind),
        kind,
    }
}

fn product(version: Option<&str>) -> Product<'_> {
    Product {
        name: HALLPASS,
        vendor_name: HALLPASS,
        version,
    }
}

fn user<'a>(name: Option<&'a str>, key: Option<&'a str>) -> User<'a> {
    User {
        // Without either, there would be nothing to call it by.
        name: name.or_else(|| key.is_none().then_some("unknown")),
        credential_uid: key,
        type_id: 1,
    }
}

/// One line for people.
fn message(kind: &str, event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut words = vec![kind.to_owned()];
    for (name, value) in [
        ("user", text(&event["user"])),
        ("host", text(&event["host"])),
        ("key", text(&event["key"])),
        ("key", text(&event["new"]["key"])),
        ("provider", text(&event["account"]["provider"])),
        ("by", text(&event["by"]["requester"])),
        ("for", text(&event["requester"])),
        ("role", text(&event["request"]["role"])),
        ("purpose", text(&event["request"]["purpose"])),
        ("reason", text(&event["request"]["reason"])),
        ("serial", text(&event["certificate"]["serial"])),
        ("refused", text(&event["refused"]["detail"])),
    ] {
        if !value.is_empty() {
            words.push(format!("{name}={value}"));
        }
    }
    words.join(" ")
}
