use serde_json::{Value, json};

use super::{Ca, Home, Login, Person, Provider, Ran, home_with, visit};

/// A CA that believes a liar, and bob, whom the liar knows.
pub(crate) struct Scene {
    pub(crate) liar: Provider,
    pub(crate) ca: Ca,
    pub(crate) bob: Person,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With further lines in the liar's table.
    pub(crate) fn with(lines: &str) -> Self {
        let liar = Provider::liar();
        let home = home_with(&liar.table("clinic", lines));
        Self::on(liar, home)
    }

    pub(crate) fn on(liar: Provider, home: Home) -> Self {
        let ca = Ca::on(home);
        let bob = Person::newcomer(&ca);
        Self { liar, ca, bob }
    }

    pub(crate) fn begin(&self) -> Login {
        Login::by_hand(&self.bob, &[])
    }

    /// How a login goes while the liar follows an order.
    pub(crate) fn login(&self, order: &Value) -> Ran {
        self.liar.tell(order);
        let mut login = self.begin();
        if let Some(url) = login.try_url() {
            let back = visit(&url)
                .and_then(|visit| visit.location)
                .expect("a way back");
            visit(&back).expect("somebody who waits");
        }
        login.ends()
    }

    /// The same on another device.
    pub(crate) fn device_login(&self, order: &Value) -> Ran {
        self.liar.tell(order);
        let mut login = Login::by_hand(&self.bob, &["--device"]);
        let (_, code) = login.device(&self.liar);
        let page = format!("{}/device?user_code={code}", self.liar.issuer);
        assert_eq!(visit(&page).unwrap().status, 200);
        login.ends()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.ca.home.entries("session-begun").len()
    }

    /// Checks that a login works without the lie, does not with it, for a reason of which one of these
    /// words speaks, and works again without it.
    #[track_caller]
    pub(crate) fn refuses(&self, order: &Value, words: &[&str]) {
        self.comes_to_nothing(order, 77, words);
    }

    #[track_caller]
    pub(crate) fn comes_to_nothing(&self, order: &Value, code: i32, words: &[&str]) {
        self.takes(&json!({}));
        let before = self.sessions();
        let ran = self.login(order);
        self.came_to_nothing(order, &ran, code, words);
        assert_eq!(self.sessions(), before, "{order}");
        self.takes(&json!({}));
    }

    #[track_caller]
    pub(crate) fn came_to_nothing(&self, order: &Value, ran: &Ran, code: i32, words: &[&str]) {
        assert_eq!(ran.code, code, "{order}: {ran:?}");
        // What was said before is the address of the page, which has all kinds of words in it.
        let complaint = ran.err.rsplit("hallpass: ").next().unwrap().to_lowercase();
        let named = words.iter().any(|word| complaint.contains(word));
        assert!(named, "{order}: {complaint:?} speaks of none of {words:?}");
    }

    #[track_caller]
    pub(crate) fn takes(&self, order: &Value) {
        let before = self.sessions();
        let ran = self.login(order);
        assert_eq!(ran.code, 0, "{order}: {ran:?}\n{}", self.ca.server_log());
        assert_eq!(self.sessions(), before + 1, "{order}");
    }
}
