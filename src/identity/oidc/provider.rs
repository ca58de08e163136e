use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{LoginError, ProviderError, ProviderSettings};
use crate::identity::{
    Claims, Expected, Issuer, IssuerError, JwtError, Metadata, Platform, SSH_KEY,
};
use crate::keys::{SecretFileError, secret_line};
use crate::model::{
    Account, GroupName, HostTtl, IssuerUrl, ProviderName, SecondFactor, Timestamp, UserName,
};
use crate::outbound::{Answer, Https, HttpsError};

/// More groups than a person needs here, and than an entry of the log should hold.
pub(super) const MOST_GROUPS: usize = 50;
/// How often to ask whether somebody has signed in, when the provider does not say (RFC 8628,
/// section 3.2), and at most.
const INTERVAL: u64 = 5;
const LONGEST_INTERVAL: u64 = 60;

/// A provider that people sign in with.
pub struct Provider {
    name: ProviderName,
    issuer: Issuer,
    https: Https,
    client_id: String,
    secret_file: Option<PathBuf>,
    scopes: String,
    name_claim: String,
    groups_claim: Option<String>,
    mfa_amr: Vec<String>,
    mfa_acr: Vec<String>,
    redirect_port: Option<NonZeroU16>,
    max_age: Option<Duration>,
    group_names: BTreeMap<String, GroupName>,
}

/// Whom a provider vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The account there.
    pub account: Account,
    /// What they are called.
    pub name: UserName,
    /// The groups that the provider puts them in, sorted.
    pub groups: Vec<GroupName>,
    /// The second factor that they showed there. Its time is long past when the provider does not
    /// say when it was.
    pub mfa: Option<SecondFactor>,
}

/// A question whether somebody signs in on another device (RFC 8628, section 3.2).
pub struct DeviceGrant {
    /// What we ask with.
    pub device_code: Zeroizing<String>,
    /// What they enter.
    pub user_code: String,
    /// Where.
    pub url: String,
    /// The same with the code in it.
    pub complete_url: Option<String>,
    /// For how long.
    pub lasts: Duration,
    /// How many seconds to wait before each question.
    pub interval: u64,
}

impl Provider {
    /// From its settings; files that they name are relative to `folder`.
    ///
    /// # Errors
    /// When nobody could be known by it, or its secret can't be read.
    pub fn new(settings: ProviderSettings, folder: &Path) -> Result<Self, ProviderError> {
        let name = settings.name;
        let platforms = Platform::ALL.map(Platform::name);
        if name.as_str() == SSH_KEY || platforms.contains(&name.as_str()) {
            return Err(ProviderError::Name(name));
        }
        if settings.issuer.as_str().contains(['?', '#']) {
            return Err(ProviderError::Issuer(name));
        }
        let roots = |source| ProviderError::Roots(name.clone(), source);
        let ca_file = settings.ca_file.map(|path| folder.join(path));
        let https = Https::new(ca_file.as_deref()).map_err(roots)?;
        let preset = settings.preset;
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let mut scopes: Vec<String> = settings.scopes.unwrap_or_else(|| owned(preset.scopes()));
        if !scopes.iter().any(|scope| scope == "openid") {
            scopes.insert(0, "openid".to_owned());
        }
        let provider = Self {
            issuer: Issuer::discovered(settings.issuer, https.clone()),
            https,
            client_id: settings.client_id,
            secret_file: settings.client_secret_file.map(|path| folder.join(path)),
            scopes: scopes.join(" "),
            name_claim: settings
                .name_claim
                .unwrap_or_else(|| preset.name_claim().to_owned()),
            groups_claim: settings
                .groups_claim
                .or_else(|| preset.groups_claim().map(str::to_owned)),
            mfa_amr: settings.mfa_amr.unwrap_or_else(|| owned(preset.mfa_amr())),
            mfa_acr: settings.mfa_acr.unwrap_or_default(),
            redirect_port: settings.redirect_port,
            max_age: settings.max_age.map(HostTtl::duration),
            group_names: settings.group_names,
            name,
        };
        // A mistake shows at once. It is read for each login, so that a new one needs no restart.
        provider.secret()?;
        Ok(provider)
    }

    /// What it is called.
    pub fn name(&self) -> &ProviderName {
        &self.name
    }

    /// The port that the browser comes back to, when it is always the same.
    pub fn redirect_port(&self) -> Option<NonZeroU16> {
        self.redirect_port
    }

    /// The page where somebody signs in, who is sent to `redirect` afterwards. Only whoever knows
    /// `verifier` gets anything for the code (RFC 7636).
    ///
    /// # Errors
    /// When the provider can't be reached.
    pub async fn sign_in_url(
        &self,
        redirect: &str,
        state: &str,
        nonce: &str,
        verifier: &str,
    ) -> Result<String, LoginError> {
        let metadata = self.metadata().await?;
        let page = self.endpoint(&metadata.authorization_endpoint, "authorization endpoint")?;
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        let mut query = Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", redirect)
            .append_pair("scope", &self.scopes)
            .append_pair("state", state)
            .append_pair("nonce", nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if let Some(max_age) = self.max_age {
            query.append_pair("max_age", &max_age.as_secs().to_string());
        }
        let page = page.to_string();
        let separator = if page.contains('?') { '&' } else { '?' };
        Ok(format!("{page}{separator}{}", query.finish()))
    }

    /// Checks who a redirect says that it comes from (RFC 9207), so that a code of one provider is
    /// never shown to another.
    ///
    /// # Errors
    /// When it is another.
    pub async fn check_issuer(&self, iss: Option<&str>) -> Result<(), LoginError> {
        let metadata = self.metadata().await?;
        let told = match iss {
            Some(iss) => iss == self.issuer.name(),
            None => !metadata.authorization_response_iss_parameter_supported,
        };
        if told { Ok(()) } else { Err(LoginError::MixUp) }
    }

    /// Has the code of a redirect tell who signed in.
    ///
    /// # Errors
    /// When the provider refuses it, can't be reached, or what it says can't be believed.
    pub async fn redeem(
        &self,
        code: &str,
        redirect: &str,
        verifier: &str,
        nonce: &str,
        now: Timestamp,
    ) -> Result<Vouched, LoginError> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        match self.ask_for_token(&fields).await? {
            Token::Given(token) => self.vouched(&token, Some(nonce), now).await,
            Token::Refused(refused) => Err(refused.into_error()),
        }
    }

    /// Begins a login on another device.
    ///
    /// # Errors
    /// When the provider has none, refuses it, or can't be reached.
    pub async fn begin_device(&self) -> Result<DeviceGrant, LoginError> {
        let metadata = self.metadata().await?;
        let endpoint = metadata.device_authorization_endpoint.as_ref();
        let endpoint = endpoint.ok_or_else(|| LoginError::NoDevice(self.name.clone()))?;
        let fields = [("scope", self.scopes.as_str())];
        let answer = self.post(endpoint, &metadata, &fields).await?;
        if answer.status != 200 {
            return Err(self.refused(&answer)?.into_error());
        }
        let begun: DeviceAnswer = self.parse(&answer, "answer to a device's login")?;
        Ok(DeviceGrant {
            device_code: Zeroizing::new(begun.device_code),
            user_code: shown(&begun.user_code, 40),
            url: web_page(&begun.verification_uri)
                .ok_or_else(|| self.strange("its verification_uri is no address of a page"))?,
            complete_url: begun
                .verification_uri_complete
                .and_then(|page| web_page(&page)),
            lasts: Duration::from_secs(begun.expires_in),
            interval: begun
                .interval
                .unwrap_or(INTERVAL)
                .clamp(1, LONGEST_INTERVAL),
        })
    }

    /// Asks whether somebody has signed in on another device; gives how much longer to wait between
    /// questions when nobody has.
    ///
    /// # Errors
    /// When they were refused, it took too long, the provider can't be reached, or what it says
    /// can't be believed.
    pub async fn ask_device(
        &self,
        device_code: &str,
        now: Timestamp,
    ) -> Result<Result<Vouched, Duration>, LoginError> {
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device_code),
        ];
        match self.ask_for_token(&fields).await? {
            Token::Given(token) => Ok(Ok(self.vouched(&token, None, now).await?)),
            Token::Refused(refused) => match refused.error.as_str() {
                "authorization_pending" => Ok(Err(Duration::ZERO)),
                // RFC 8628, section 3.5.
                "slow_down" => Ok(Err(Duration::from_secs(5))),
                _ => Err(refused.into_error()),
            },
        }
    }

    async fn ask_for_token(&self, fields: &[(&str, &str)]) -> Result<Token, LoginError> {
        let metadata = self.metadata().await?;
        let endpoint = self.endpoint(&metadata.token_endpoint, "token endpoint")?;
        let answer = self.post(endpoint, &metadata, fields).await?;
        if answer.status != 200 {
            return Ok(Token::Refused(self.refused(&answer)?));
        }
        let tokens: TokenAnswer = self.parse(&answer, "answer with the tokens")?;
        let token = tokens.id_token.ok_or_else(|| {
            self.strange("it gave no ID token: the scope openid must be allowed there")
        })?;
        Ok(Token::Given(Zeroizing::new(token)))
    }

    /// Posts as this client (RFC 6749, section 2.3.1).
    async fn post(
        &self,
        endpoint: &IssuerUrl,
        metadata: &Metadata,
        fields: &[(&str, &str)],
    ) -> Result<Answer, LoginError> {
        let mut fields = fields.to_vec();
        let secret = self.secret().map_err(LoginError::Secret)?;
        let methods = metadata.token_endpoint_auth_methods_supported.as_ref();
        let takes = |method: &str| {
            methods.is_some_and(|methods| methods.iter().any(|taken| taken == method))
        };
        let in_body = takes("client_secret_post") && !takes("client_secret_basic");
        let basic = match &secret {
            Some(secret) if in_body => {
                fields.push(("client_secret", secret));
                None
            }
            Some(secret) => Some((self.client_id.as_str(), secret.as_str())),
            None => None,
        };
        if basic.is_none() {
            fields.push(("client_id", &self.client_id));
        }
        let answer = self.https.post_form(endpoint.as_str(), &fields, basic);
        answer.await.map_err(|error| self.unreachable(error))
    }

    /// Reads an ID token.
    async fn vouched(
        &self,
        token: &str,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<Vouched, LoginError> {
        let expected = Expected {
            issuer: Some(self.issuer.name()),
            audience: &self.client_id,
            nonce,
            max_age: self.max_age,
        };
        let claims = self.issuer.verify(token, &expected, now).await;
        let claims = claims.map_err(|error| self.issuer_error(error))?;
        // OpenID Connect Core 1.0, section 2.
        let subject = claims.subject();
        if !subject.is_ascii() || subject.len() > 255 {
            return Err(JwtError::Claim("sub").into());
        }
        Ok(Vouched {
            account: Account {
                provider: self.name.clone(),
                subject: subject.to_owned(),
            },
            name: self.user_name(&claims)?,
            groups: self.groups(&claims)?,
            mfa: self.mfa(&claims),
        })
    }

    fn user_name(&self, claims: &Claims) -> Result<UserName, LoginError> {
        let claim = &self.name_claim;
        let name = claims
            .text(claim)
            .ok_or_else(|| LoginError::NoName(claim.clone()))?;
        // Others could have set it to anything (OpenID Connect Core 1.0, section 5.7).
        if claim == "email" && !claims.is_true("email_verified") {
            return Err(LoginError::UnverifiedEmail);
        }
        name.to_lowercase().parse().map_err(LoginError::Name)
    }

    fn groups(&self, claims: &Claims) -> Result<Vec<GroupName>, LoginError> {
        let Some(claim) = &self.groups_claim else {
            return Ok(Vec::new());
        };
        let texts = claims.texts(claim).into_iter();
        let mut groups: Vec<GroupName> = if self.group_names.is_empty() {
            // Keycloak gives paths. What can't be a group here is none.
            let names = texts.map(|text| text.strip_prefix('/').unwrap_or(text));
            names.filter_map(|name| name.parse().ok()).collect()
        } else {
            let known = texts.filter_map(|text| self.group_names.get(text));
            known.cloned().collect()
        };
        groups.sort();
        groups.dedup();
        if groups.len() > MOST_GROUPS {
            return Err(LoginError::TooManyGroups(groups.len()));
        }
        Ok(groups)
    }

    /// Whether it may put somebody into all of these groups.
    pub fn may_say(&self, groups: &[GroupName]) -> bool {
        let known = |group| self.group_names.values().any(|name| name == group);
        match &self.groups_claim {
            None => groups.is_empty(),
            Some(_) => self.group_names.is_empty() || groups.iter().all(known),
        }
    }

    fn mfa(&self, claims: &Claims) -> Option<SecondFactor> {
        let among = |claim, wanted: &[String]| {
            let told = claims.texts(claim);
            told.iter().any(|told| wanted.iter().any(|one| one == told))
        };
        let mut shown = among("amr", &self.mfa_amr);
        shown |= among("acr", &self.mfa_acr) || among("acrs", &self.mfa_acr);
        shown.then(|| SecondFactor {
            verified: true,
            attested: false,
            time: claims.time("auth_time").unwrap_or_default(),
        })
    }

    fn secret(&self) -> Result<Option<Zeroizing<String>>, ProviderError> {
        let Some(path) = &self.secret_file else {
            return Ok(None);
        };
        let secret = secret_line(path).map_err(|error| match error {
            SecretFileError::Unreadable(source) => ProviderError::Secret {
                path: path.clone(),
                source,
            },
            SecretFileError::Exposed => ProviderError::Exposed { path: path.clone() },
        })?;
        if secret.is_empty() {
            return Err(ProviderError::NoSecret { path: path.clone() });
        }
        Ok(Some(secret))
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, LoginError> {
        let metadata = self.issuer.metadata().await;
        metadata.map_err(|error| self.issuer_error(error))
    }

    fn endpoint<'a>(
        &self,
        endpoint: &'a Option<IssuerUrl>,
        what: &str,
    ) -> Result<&'a IssuerUrl, LoginError> {
        endpoint
            .as_ref()
            .ok_or_else(|| self.strange(&format!("its metadata names no {what}")))
    }

    fn parse<'a, T: Deserialize<'a>>(
        &self,
        answer: &'a Answer,
        what: &str,
    ) -> Result<T, LoginError> {
        // The error could quote a token.
        serde_json::from_slice(&answer.body)
            .map_err(|_| self.strange(&format!("its {what} can't be read")))
    }

    /// An error as OAuth 2.0 words it (RFC 6749, section 5.2).
    fn refused(&self, answer: &Answer) -> Result<Refused, LoginError> {
        let why = || format!("it answered with status {}", answer.status);
        serde_json::from_slice(&answer.body).map_err(|_| match answer.status {
            // Another time it may answer.
            429 | 500.. => LoginError::Unreachable {
                provider: self.name.clone(),
                why: why(),
            },
            _ => self.strange(&why()),
        })
    }

    fn issuer_error(&self, error: IssuerError) -> LoginError {
        match error {
            IssuerError::Token(error) => LoginError::Token(error),
            error if error.is_unreachable() => LoginError::Unreachable {
                provider: self.name.clone(),
                why: error.to_string(),
            },
            error => self.strange(&error.to_string()),
        }
    }

    fn unreachable(&self, error: HttpsError) -> LoginError {
        LoginError::Unreachable {
            provider: self.name.clone(),
            why: error.to_string(),
        }
    }

    fn strange(&self, why: &str) -> LoginError {
        LoginError::Strange {
            provider: self.name.clone(),
            why: why.to_owned(),
        }
    }
}

enum Token {
    Given(Zeroizing<String>),
    Refused(Refused),
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: Option<String>,
}

#[derive(Deserialize)]
struct DeviceAnswer {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    error_description: Option<String>,
}

impl Refused {
    fn into_error(self) -> LoginError {
        let mut said = shown(&self.error, 60);
        if let Some(description) = &self.error_description {
            said = format!("{said}: {}", shown(description, 200));
        }
        LoginError::Refused(said)
    }
}

/// What others wrote, for people.
fn shown(text: &str, most: usize) -> String {
    let cut: String = text.chars().take(most).collect();
    cut.escape_debug().to_string()
}

/// An address that a browser may be sent to: a provider must not have one open anything else.
fn web_page(text: &str) -> Option<String> {
    let plain = text.bytes().all(|c| c.is_ascii_graphic());
    (plain && text.parse::<IssuerUrl>().is_ok()
        || plain && text.starts_with("https://") && text.len() < 2000)
        .then(|| text.to_owned())
}
