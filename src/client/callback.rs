//! The page on this machine that a provider sends the browser back to (RFC 8252, section 7.3).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use form_urlencoded::parse;

use crate::model::RedirectAnswer;

/// How long a browser may take to send its request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a browser is there.
const PAUSE: Duration = Duration::from_millis(50);
/// A request line with a code is shorter.
const LONGEST: u64 = 16 * 1024;

/// Waits for a browser.
pub(super) struct Callback {
    listener: TcpListener,
    port: u16,
}

/// What the browser brought, and the browser itself, which still waits for a page.
pub(super) struct Returned {
    /// The answer, or what the provider says is wrong.
    pub(super) answer: Result<RedirectAnswer, String>,
    browser: TcpStream,
}

impl Callback {
    /// On a port that only this machine reaches: that one, or a free one.
    pub(super) fn listen(port: Option<NonZeroU16>) -> io::Result<Self> {
        let port = port.map_or(0, NonZeroU16::get);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// Where the browser is to be sent.
    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/callback", self.port)
    }

    /// Waits for the browser to come with that state; nothing when it does not in time. Whoever else
    /// comes, which any program on this machine could, is sent away and changes nothing.
    pub(super) fn wait(&self, state: &str, until: Instant) -> io::Result<Option<Returned>> {
        while Instant::now() < until {
            match self.listener.accept() {
                Ok((browser, _)) => {
                    if let Some(returned) = returned(browser, state) {
                        return Ok(Some(returned));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl Returned {
    /// Shows the last page.
    pub(super) fn show(mut self, title: &str, text: &str) {
        // Who closed the browser has seen enough.
        page(&mut self.browser, "200 OK", title, text).ok();
    }
}

/// Reads a request, and answers it at once when it is not the one that is waited for.
fn returned(mut browser: TcpStream, state: &str) -> Option<Returned> {
    browser.set_nonblocking(false).ok()?;
    browser.set_read_timeout(Some(PATIENCE)).ok()?;
    browser.set_write_timeout(Some(PATIENCE)).ok()?;
    let target = target(&browser);
    let answer = target.as_deref().and_then(|target| answer(target, state));
    if answer.is_none() {
        let text = "This is not the page that Hallpass waits for.";
        page(&mut browser, "404 Not Found", "Not found", text).ok();
    }
    let answer = answer?;
    Some(Returned { answer, browser })
}

/// The target of a GET request.
fn target(browser: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(browser.take(LONGEST)).lines();
    let first = lines.next()?.ok()?;
    // The rest is read so that the browser sees our answer, and not a broken connection.
    for line in lines {
        if line.ok()?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    (method == "GET").then(|| target.to_owned())
}

/// What a redirect with that state brought (RFC 6749, section 4.1.2).
fn answer(target: &str, state: &str) -> Option<Result<RedirectAnswer, String>> {
    let query = target.strip_prefix("/callback?")?;
    let value = |name: &str| {
        let mut values = parse(query.as_bytes()).filter(|(key, _)| key == name);
        let value = values.next()?.1.into_owned();
        // Of two, one could be checked and the other be used.
        values.next().is_none().then_some(value)
    };
    if value("state").as_deref() != Some(state) {
        return None;
    }
    if let Some(error) = value("error") {
        let description = value("error_description");
        return Some(Err(match description {
            Some(description) => format!("{}: {}", shown(&error), shown(&description)),
            None => shown(&error),
        }));
    }
    Some(Ok(RedirectAnswer {
        code: value("code")?,
        state: state.to_owned(),
        iss: value("iss"),
    }))
}

/// Others' words in one line.
fn shown(text: &str) -> String {
    let text: String = text.chars().take(200).collect();
    text.escape_debug().to_string()
}

fn page(browser: &mut TcpStream, status: &str, title: &str, text: &str) -> io::Result<()> {
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let (title, text) = (escaped(title), escaped(text));
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 20vh auto; \
         padding: 0 1rem; color-scheme: light dark }}</style>\n<h1>{title}</h1>\n<p>{text}</p>\n"
    );
    write!(
        browser,
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    browser.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_login_counts() {
        let brought = |target: &str| answer(target, "abc");
        let good = brought("/callback?code=x%2Fy&state=abc&iss=https%3A%2F%2Fidp").unwrap();
        let good = good.unwrap();
        assert_eq!(good.code, "x/y");
        assert_eq!(good.iss.as_deref(), Some("https://idp"));
        let refused = brought("/callback?error=access_denied&error_description=no+way&state=abc");
        assert_eq!(refused.unwrap().unwrap_err(), "access_denied: no way");
        for other in [
            "/callback?code=x&state=abd",
            "/callback?code=x",
            "/callback?code=x&state=abc&state=abc",
            "/callback?code=x&code=y&state=abc",
            "/callback?state=abc",
            "/callback",
            "/?code=x&state=abc",
            "/favicon.ico",
        ] {
            assert!(brought(other).is_none(), "{other}");
        }
    }

    #[test]
    fn others_who_come_change_nothing() {
        let callback = Callback::listen(None).unwrap();
        let ask = |request: &'static str| {
            let address = ("127.0.0.1", callback.port);
            let mut browser = TcpStream::connect(address).unwrap();
            browser.write_all(request.as_bytes()).unwrap();
            browser
        };
        let mut strangers = [
            ask("GET /callback?code=x&state=wrong HTTP/1.1\r\n\r\n"),
            ask("POST /callback?code=x&state=right HTTP/1.1\r\n\r\n"),
            ask("\r\n\r\n"),
        ];
        let mut browser = ask("GET /callback?code=x&state=right HTTP/1.1\r\nHost: x\r\n\r\n");
        let until = Instant::now() + Duration::from_secs(10);
        let returned = callback.wait("right", until).unwrap().unwrap();
        assert_eq!(returned.answer.as_ref().unwrap().code, "x");
        returned.show("Signed in", "as <alice>");
        let mut shown = String::new();
        browser.read_to_string(&mut shown).unwrap();
        assert!(shown.starts_with("HTTP/1.1 200") && shown.contains("as &lt;alice&gt;"));
        for stranger in &mut strangers {
            let mut shown = String::new();
            stranger.read_to_string(&mut shown).unwrap();
            assert!(shown.starts_with("HTTP/1.1 404"), "{shown}");
        }
    }
}
