//! Words with a proxy: any answer, cut anywhere, ends the same, and what is held of it is bounded.

use drtp_core::through::proxy::{Progress, Proxy, ProxyFault, ProxyKind, Talk};

/// What a talk came to: what we said, how many bytes were the proxy's, and how it ended.
type End = (Vec<u8>, usize, Result<bool, std::mem::Discriminant<ProxyFault>>);

/// The first byte says whom we speak to, the second how long a piece is; the rest is what the proxy says.
pub fn talks(input: &[u8]) {
    let [kind, piece, answers @ ..] = input else { return };
    let whole = talk(*kind, answers, answers.len().max(1));
    let cut = talk(*kind, answers, usize::from(*piece).max(1));
    assert_eq!(whole, cut, "a cut changes what is understood");
    assert!(whole.1 <= answers.len(), "more was taken than came");
}

fn talk(kind: u8, answers: &[u8], piece: usize) -> End {
    let credentials = (kind & 2 != 0).then(|| ("sam".to_owned(), "secret".to_owned()));
    let kind = if kind & 1 == 0 { ProxyKind::Connect } else { ProxyKind::Socks5 };
    let proxy = Proxy { kind, host: "proxy".into(), port: 1, credentials };
    let (mut said, mut taken) = (Vec::new(), 0);
    let Ok(mut talk) = Talk::begin(&proxy, "pop.test", 443, &mut said) else { panic!("a talk that cannot begin") };
    for part in answers.chunks(piece) {
        match talk.take(part, &mut said) {
            Ok(Progress::Talking) => taken += part.len(),
            Ok(Progress::Through(used)) => {
                assert!(used <= part.len(), "more was taken than came");
                return (said, taken + used, Ok(true));
            }
            Err(fault) => {
                let words = fault.to_string();
                assert!(words.starts_with("DRTP-405") && words.len() < 1_024, "{words}");
                assert!(!words.chars().any(char::is_control), "{words:?}");
                return (said, 0, Err(std::mem::discriminant(&fault)));
            }
        }
    }
    (said, taken, Ok(false))
}
