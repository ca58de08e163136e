//! Jobs and services whose platform vouches for them with a JWT: GitHub Actions, GitLab CI, Kubernetes
//! service accounts, SPIFFE JWT-SVIDs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::jwt::Unverified;
use super::{Claims, Expected, Issuer, IssuerError, Jwks, JwtError};
use crate::keys::is_ours_to_change;
use crate::model::{
    Account, GroupName, Invalid, IssuerUrl, ProviderName, Timestamp, Ttl, UserName,
};
use crate::outbound::{Https, RootsError};

/// A workload that is let in: a `[[workload]]` table of `hallpass.toml`. docs/workloads.md tells
/// more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSettings {
    /// What it is called, as a user is.
    pub name: UserName,
    /// Who vouches for it.
    pub platform: Platform,
    /// The `iss` of its tokens, when it is not the platform's usual one.
    pub issuer: Option<IssuerUrl>,
    /// The `aud` that its tokens are made for: no other CA should have the same.
    pub audience: String,
    /// What must stand in its tokens.
    pub claims: BTreeMap<String, Wanted>,
    /// The groups that policy knows it by.
    #[serde(default)]
    pub groups: Vec<GroupName>,
    /// How long its key signs; 15 minutes when left out.
    pub life: Option<Ttl>,
    /// Where the platform's keys are, when they can't be found by the issuer's metadata.
    pub jwks_url: Option<IssuerUrl>,
    /// A file with them, within the home or absolute.
    pub jwks_file: Option<PathBuf>,
    /// The root certificates by which the platform is known; the system's when left out.
    pub ca_file: Option<PathBuf>,
}

/// One value or several, of which any will do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Wanted {
    /// This one.
    One(String),
    /// Any of these.
    Any(Vec<String>),
}

impl Wanted {
    fn includes(&self, value: &str) -> bool {
        match self {
            Self::One(one) => one == value,
            Self::Any(any) => any.iter().any(|one| one == value),
        }
    }
}

/// Who vouches for workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// GitHub Actions.
    Github,
    /// GitLab CI/CD.
    Gitlab,
    /// Kubernetes service accounts.
    Kubernetes,
    /// SPIFFE JWT-SVIDs.
    Spiffe,
}

impl Platform {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Github, Self::Gitlab, Self::Kubernetes, Self::Spiffe];

    /// What policies know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Kubernetes => "kubernetes",
            Self::Spiffe => "spiffe",
        }
    }

    fn issuer(self) -> Option<&'static str> {
        match self {
            Self::Github => Some("https://token.actions.githubusercontent.com"),
            Self::Gitlab => Some("https://gitlab.com"),
            Self::Kubernetes | Self::Spiffe => None,
        }
    }

    /// The claims of which one must be fixed: without, everybody on that platform would be let in.
    fn telling(self) -> &'static [&'static str] {
        match self {
            Self::Github => &[
                "sub",
                "repository",
                "repository_id",
                "repository_owner",
                "repository_owner_id",
            ],
            Self::Gitlab => &[
                "sub",
                "project_path",
                "project_id",
                "namespace_path",
                "namespace_id",
            ],
            Self::Kubernetes => &["sub", "/kubernetes.io/namespace"],
            Self::Spiffe => &["sub"],
        }
    }

    /// What policies see of a workload, and the claims that say it.
    fn attributes(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Github => &[
                ("repository", "repository"),
                ("ref", "ref"),
                ("environment", "environment"),
            ],
            Self::Gitlab => &[
                ("repository", "project_path"),
                ("ref", "ref"),
                ("environment", "environment"),
            ],
            Self::Kubernetes => &[
                ("namespace", "/kubernetes.io/namespace"),
                ("service_account", "/kubernetes.io/serviceaccount/name"),
            ],
            Self::Spiffe => &[("spiffe_id", "sub")],
        }
    }
}

/// A workload that is let in.
struct Workload {
    name: UserName,
    platform: Platform,
    provider: ProviderName,
    issuer: Arc<Issuer>,
    audience: String,
    claims: BTreeMap<String, Wanted>,
    groups: Vec<GroupName>,
    life: Ttl,
}

/// A workload that a platform vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VouchedWorkload {
    /// What it is called here.
    pub name: UserName,
    /// The platform, and the `sub` of the token.
    pub account: Account,
    /// Its groups.
    pub groups: Vec<GroupName>,
    /// What policies see of it.
    pub attributes: BTreeMap<String, String>,
    /// How long its key signs.
    pub life: Ttl,
    /// When the token was issued.
    pub issued: Timestamp,
    /// Until when the token is good.
    pub expires: Timestamp,
}

/// All workloads that are let in, in the order of the configuration.
#[derive(Default)]
pub struct Workloads(Vec<Workload>);

impl Workloads {
    const LIFE: u64 = 15 * 60;

    /// From their settings; files that they name are relative to `folder`.
    ///
    /// # Errors
    /// When one would let in anybody, or nobody.
    pub fn new(settings: Vec<WorkloadSettings>, folder: &Path) -> Result<Self, WorkloadError> {
        let mut workloads: Vec<Workload> = Vec::new();
        // Those of one issuer share its keys.
        let mut issuers: Vec<(IssuerOf, Arc<Issuer>)> = Vec::new();
        for one in settings {
            let of = IssuerOf::of(&one)?;
            let known = issuers.iter().find(|(other, _)| *other == of);
            let issuer = match known {
                Some((_, issuer)) => Arc::clone(issuer),
                None => {
                    let issuer = Arc::new(of.open(&one.name, folder)?);
                    issuers.push((of, Arc::clone(&issuer)));
                    issuer
                }
            };
            workloads.push(Workload::new(one, issuer)?);
        }
        Ok(Self(workloads))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is called so.
    pub fn is_called(&self, name: &UserName) -> bool {
        self.0.iter().any(|workload| workload.name == *name)
    }

    /// Whether one may have begun a session of which this is known: what it does not tell is taken to
    /// fit.
    pub fn may_be(
        &self,
        name: &UserName,
        account: &Account,
        groups: &[GroupName],
        attributes: &BTreeMap<String, String>,
    ) -> bool {
        self.0.iter().any(|workload| {
            workload.name == *name
                && workload.provider == account.provider
                && groups.iter().all(|group| workload.groups.contains(group))
                && workload.may_fit(&account.subject, attributes)
        })
    }

    /// Which workload a token vouches for: the first whose claims fit.
    ///
    /// # Errors
    /// When the token does not count, or is none of theirs.
    pub async fn identify(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<VouchedWorkload, NoWorkload> {
        if self.0.is_empty() {
            return Err(NoWorkload::None);
        }
        // What is wrong with the token for the issuer that it names is told; what others would say of it
        // is not.
        let claimed = Unverified::read(token)?;
        let mut found = None;
        let theirs = self.0.iter().filter(|workload| workload.is_from(&claimed));
        for workload in theirs {
            match workload.verify(token, now).await {
                Ok(claims) if workload.fits(&claims) => return Ok(workload.vouched(&claims)),
                Ok(claims) => found = Some(NoWorkload::OtherClaims(claims.subject().to_owned())),
                // Another may still know it.
                Err(error @ NoWorkload::Unreachable(_)) => found = Some(error),
                Err(error) => found = Some(found.unwrap_or(error)),
            }
        }
        Err(found.unwrap_or(NoWorkload::Issuer))
    }
}

impl Workload {
    fn new(settings: WorkloadSettings, issuer: Arc<Issuer>) -> Result<Self, WorkloadError> {
        let WorkloadSettings {
            name,
            platform,
            claims,
            ..
        } = settings;
        let telling = platform.telling();
        if !telling.iter().any(|claim| claims.contains_key(*claim)) {
            let claims = telling.join(", ");
            return Err(WorkloadError::Anybody { name, claims });
        }
        let is_empty = |wanted: &Wanted| match wanted {
            Wanted::One(one) => one.is_empty(),
            Wanted::Any(any) => any.is_empty() || any.iter().any(String::is_empty),
        };
        if let Some((claim, _)) = claims.iter().find(|(_, wanted)| is_empty(wanted)) {
            let claim = claim.clone();
            return Err(WorkloadError::Empty { name, claim });
        }
        if settings.audience.is_empty() {
            let claim = "audience".to_owned();
            return Err(WorkloadError::Empty { name, claim });
        }
        let life = Ttl::from_secs(Workloads::LIFE);
        Ok(Self {
            provider: platform.name().parse().map_err(WorkloadError::Invalid)?,
            life: match settings.life {
                Some(life) => life,
                None => life.map_err(WorkloadError::Invalid)?,
            },
            name,
            platform,
            issuer,
            audience: settings.audience,
            claims,
            groups: settings.groups,
        })
    }

    /// Whether a token that claims this can be one of its tokens. JWT-SVIDs need not name an issuer.
    fn is_from(&self, claimed: &Unverified) -> bool {
        match self.platform {
            Platform::Spiffe => claimed.subject.starts_with("spiffe://"),
            _ => claimed.issuer.as_deref() == Some(self.issuer.name()),
        }
    }

    async fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, NoWorkload> {
        let expected = Expected {
            issuer: (self.platform != Platform::Spiffe).then(|| self.issuer.name()),
            audience: &self.audience,
            nonce: None,
            max_age: None,
        };
        Ok(self.issuer.verify(token, &expected, now).await?)
    }

    fn fits(&self, claims: &Claims) -> bool {
        self.claims.iter().all(|(claim, wanted)| {
            let told = claims.text(claim);
            told.is_some_and(|told| wanted.includes(told))
        })
    }

    fn may_fit(&self, subject: &str, attributes: &BTreeMap<String, String>) -> bool {
        self.claims.iter().all(|(claim, wanted)| {
            let mut kept = self.platform.attributes().iter();
            let told = match kept.find(|(_, of)| of == claim) {
                Some((attribute, _)) => attributes.get(*attribute).map(String::as_str),
                None if claim == "sub" => Some(subject),
                None => return true,
            };
            told.is_some_and(|told| wanted.includes(told))
        })
    }

    fn vouched(&self, claims: &Claims) -> VouchedWorkload {
        let mut attributes = BTreeMap::from([("provider".to_owned(), self.provider.to_string())]);
        for (attribute, claim) in self.platform.attributes() {
            if let Some(value) = claims.text(claim) {
                attributes.insert((*attribute).to_owned(), value.to_owned());
            }
        }
        VouchedWorkload {
            name: self.name.clone(),
            account: Account {
                provider: self.provider.clone(),
                subject: claims.subject().to_owned(),
            },
            groups: self.groups.clone(),
            attributes,
            life: self.life,
            issued: claims.issued(),
            expires: claims.expires(),
        }
    }
}

/// Where the keys of an issuer come from.
#[derive(PartialEq, Eq)]
struct IssuerOf {
    name: String,
    url: Option<IssuerUrl>,
    jwks_url: Option<IssuerUrl>,
    jwks_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl IssuerOf {
    fn of(settings: &WorkloadSettings) -> Result<Self, WorkloadError> {
        let name = &settings.name;
        let usual = settings.platform.issuer();
        let usual = usual.and_then(|usual| usual.parse().ok());
        let url: Option<IssuerUrl> = settings.issuer.clone().or(usual);
        if settings.jwks_url.is_some() && settings.jwks_file.is_some() {
            return Err(WorkloadError::TwoSources(name.clone()));
        }
        let spiffe = settings.platform == Platform::Spiffe;
        let has_keys = settings.jwks_url.is_some() || settings.jwks_file.is_some();
        if url.is_none() && (!spiffe || !has_keys) {
            return Err(WorkloadError::NoIssuer(name.clone()));
        }
        Ok(Self {
            name: url
                .as_ref()
                .map_or_else(|| "the SPIFFE bundle".to_owned(), ToString::to_string),
            url,
            jwks_url: settings.jwks_url.clone(),
            jwks_file: settings.jwks_file.clone(),
            ca_file: settings.ca_file.clone(),
        })
    }

    fn open(&self, workload: &UserName, folder: &Path) -> Result<Issuer, WorkloadError> {
        if let Some(path) = &self.jwks_file {
            let path = folder.join(path);
            let read = || {
                // Whoever can change it can let in anybody.
                if !is_ours_to_change(&fs::metadata(&path)?) {
                    return Err(std::io::Error::other("others can change it"));
                }
                fs::read(&path)
            };
            let text = read().map_err(|source| WorkloadError::File {
                name: workload.clone(),
                path: path.clone(),
                source,
            })?;
            let keys = Jwks::parse(&text).map_err(|source| WorkloadError::Keys { path, source })?;
            return Ok(Issuer::with_keys(self.name.clone(), keys));
        }
        let roots = |source| WorkloadError::Roots(workload.clone(), source);
        let ca_file = self.ca_file.as_ref().map(|path| folder.join(path));
        let https = Https::new(ca_file.as_deref()).map_err(roots)?;
        match (&self.jwks_url, &self.url) {
            (Some(keys), _) => Ok(Issuer::with_keys_at(self.name.clone(), keys.clone(), https)),
            (None, Some(url)) => Ok(Issuer::discovered(url.clone(), https)),
            (None, None) => Err(WorkloadError::NoIssuer(workload.clone())),
        }
    }
}

/// Why a token lets nobody in.
#[derive(Debug, thiserror::Error)]
pub enum NoWorkload {
    /// None is configured.
    #[error("no workload is let in here: this CA has no [[workload]] in its hallpass.toml")]
    None,
    /// It comes from elsewhere.
    #[error("no [[workload]] has the token's issuer")]
    Issuer,
    /// It does not count.
    #[error("the token is not accepted: {0}")]
    Token(#[from] JwtError),
    /// It counts, and is nobody's who is let in.
    #[error(
        "no [[workload]] fits the claims of this token, whose subject is {0:?}: an administrator \
         compares them with docs/workloads.md"
    )]
    OtherClaims(String),
    /// Its platform's keys can't be fetched.
    #[error("the platform's keys can't be fetched: {0}; try again later")]
    Unreachable(String),
}

impl From<IssuerError> for NoWorkload {
    fn from(error: IssuerError) -> Self {
        match error {
            IssuerError::Token(error) => Self::Token(error),
            error => Self::Unreachable(error.to_string()),
        }
    }
}

impl NoWorkload {
    /// A word for programs that read the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::None | Self::Issuer | Self::OtherClaims(_) => "unknown-workload",
            Self::Token(error) => error.code(),
            Self::Unreachable(_) => "provider-unavailable",
        }
    }
}

/// What is wrong with a `[[workload]]`.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Everybody on the platform would be let in.
    #[error(
        "[[workload]] {name}: claims: fix at least one of {claims}: without it, anybody on that \
         platform would be let in"
    )]
    Anybody {
        /// Which.
        name: UserName,
        /// What would do.
        claims: String,
    },
    /// A value is missing.
    #[error("[[workload]] {name}: {claim}: it is empty: say what must stand there")]
    Empty {
        /// Which.
        name: UserName,
        /// Where.
        claim: String,
    },
    /// Nobody vouches.
    #[error(
        "[[workload]] {0}: issuer: say whose tokens it has; for SPIFFE, name jwks_url or jwks_file"
    )]
    NoIssuer(UserName),
    /// Keys come from one place.
    #[error("[[workload]] {0}: use jwks_url or jwks_file, not both")]
    TwoSources(UserName),
    /// The keys' file can't be read.
    #[error("[[workload]] {name}: jwks_file {path}: {source}")]
    File {
        /// Which.
        name: UserName,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds no keys.
    #[error("jwks_file {path}: {source}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// Why.
        source: JwtError,
    },
    /// There are no root certificates.
    #[error("[[workload]] {0}: {1}")]
    Roots(UserName, RootsError),
    /// A fault of ours.
    #[error(transparent)]
    Invalid(Invalid),
}
