//! A stretch of network that a test can spoil: a TCP proxy on localhost.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::plan::Trouble;

/// Carries connections to one address; ends with the runtime.
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone)]
struct State {
    trouble: Option<Trouble>,
    /// Breaks the connections that are open now.
    breaks: CancellationToken,
}

/// Which way a pump carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    Requests,
    Answers,
}

impl Link {
    /// A link to `far`, which need not be there yet.
    pub async fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, watched) =
            watch::channel(State { trouble: None, breaks: CancellationToken::new() });
        tokio::spawn(async move {
            loop {
                // Fails where files run out, which is over when connections end.
                if let Ok((near, _)) = listener.accept().await {
                    tokio::spawn(carry(near, far, watched.clone()));
                } else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        Self { address, state }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn spoil(&self, trouble: Trouble) {
        self.state.send_modify(|state| state.trouble = Some(trouble));
        if trouble == Trouble::Cut {
            self.break_connections();
        }
    }

    /// From now on everything is carried. Connections that lost something break.
    pub fn heal(&self) {
        let mut lost = false;
        self.state.send_modify(|state| {
            lost = matches!(state.trouble, Some(Trouble::Lose | Trouble::Mute));
            state.trouble = None;
        });
        if lost {
            self.break_connections();
        }
    }

    /// Resets the open connections; new ones are carried as before.
    pub fn break_connections(&self) {
        self.state.send_modify(|state| {
            let old = std::mem::take(&mut state.breaks);
            old.cancel();
        });
    }
}

async fn carry(mut near: TcpStream, far: SocketAddr, state: watch::Receiver<State>) {
    let breaks = state.borrow().breaks.clone();
    let is_cut = || state.borrow().trouble == Some(Trouble::Cut);
    let far = if is_cut() { None } else { TcpStream::connect(far).await.ok() };
    let Some(mut far) = far else {
        near.set_zero_linger().ok();
        return;
    };
    for stream in [&near, &far] {
        // What is sent is small: the proxy is not to add delays of its own.
        stream.set_nodelay(true).ok();
    }
    let broken = {
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        let pumps = async {
            tokio::join!(
                pump(near_read, far_write, state.clone(), Carries::Requests),
                pump(far_read, near_write, state.clone(), Carries::Answers),
            )
        };
        tokio::select! {
            _ = pumps => false,
            () = breaks.cancelled() => true,
        }
    };
    if broken {
        for stream in [&near, &far] {
            stream.set_zero_linger().ok();
        }
    }
}

/// Carries one way until its end, which it passes on.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    carries: Carries,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or_default();
        if !passes(&mut state, carries).await {
            if read == 0 {
                // Its end is lost as well: the other side learns of it when the link heals.
                std::future::pending::<()>().await;
            }
            continue;
        }
        if read == 0 {
            to.shutdown().await.ok();
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Whether what was read is carried, as soon as it may be.
async fn passes(state: &mut watch::Receiver<State>, carries: Carries) -> bool {
    loop {
        let trouble = state.borrow_and_update().trouble;
        match trouble {
            None => return true,
            Some(Trouble::Slow(by)) => {
                tokio::time::sleep(by).await;
                return true;
            }
            Some(Trouble::Mute) if carries == Carries::Requests => return true,
            // Cut: the connection is about to break.
            Some(Trouble::Cut | Trouble::Lose | Trouble::Mute) => return false,
            Some(Trouble::Hold) => {
                if state.changed().await.is_err() {
                    return false;
                }
            }
        }
    }
}
