//! A conversation over a Unix stream socket: whole messages, some with a descriptor, without ever blocking and with bounded
//! memory whatever the other side does.
//!
//! Descriptors are matched with the messages that carry one in the order in which they came. The kernel delivers a descriptor
//! with the first byte that was sent with it or earlier, never later, so a message that is complete has its own.

use crate::credentials::{self, Credentials};
use crate::directory;
use crate::message::{
    Answer, Body, HEAD_BYTES, Hello, MESSAGE_BYTES, Message, MessageError, Peer, Request, decode_head,
};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes that are received and not yet read: two messages.
const INPUT_BYTES: usize = 2 * MESSAGE_BYTES;

/// Most descriptors that a coordinator can rightly have received and not read: it reads `Hello` with each, the last one in part.
const FROM_CLIENTS: usize = INPUT_BYTES / (HEAD_BYTES + Hello::BYTES) + 1;

/// The same for a client, to whom [`Peer`] is the shortest message with one.
const FROM_COORDINATOR: usize = INPUT_BYTES / (HEAD_BYTES + Peer::BYTES) + 1;

/// Why a conversation cannot go on.
#[derive(Debug)]
pub enum ChannelError {
    /// The socket failed.
    Io(Errno),
    /// The other side said something that is no message.
    Message(MessageError),
    /// The other side has ended it.
    Ended,
    /// Nothing came within the time.
    TimedOut,
    /// Whoever listens is neither root nor this user.
    Stranger {
        /// Who it is.
        uid: u32,
    },
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(errno) => write!(f, "{}", io::Error::from(*errno)),
            Self::Message(error) => error.fmt(f),
            Self::Ended => f.write_str("the other side has ended the conversation"),
            Self::TimedOut => f.write_str("no answer came in time"),
            Self::Stranger { uid } => write!(f, "it is user {uid} who listens there, neither root nor you"),
        }
    }
}

impl std::error::Error for ChannelError {}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno)
    }
}

impl From<MessageError> for ChannelError {
    fn from(error: MessageError) -> Self {
        Self::Message(error)
    }
}

/// What came of an attempt to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// More bytes.
    Some,
    /// Nothing at the moment, or no room before what there is has been read.
    Nothing,
    /// The other side has ended the conversation.
    End,
}

/// What came of an attempt to send a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// Nothing of it was sent: the socket takes nothing before the other side has read.
    Full,
    /// Nothing of it was sent: this user has too many descriptors on the way. The socket may well say that it takes more, so this is
    /// to be tried again after a while.
    TooManyDescriptors,
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    input: [u8; INPUT_BYTES],
    filled: usize,
    descriptors: VecDeque<OwnedFd>,
    most_descriptors: usize,
    /// The rest of a message that the socket took in part.
    output: VecDeque<u8>,
}

impl Channel {
    /// The coordinator's end, of a connection that it has accepted.
    ///
    /// # Errors
    /// Those of ioctl(2), which makes it non-blocking.
    pub fn accepted(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self::over(socket, FROM_CLIENTS))
    }

    fn over(socket: OwnedFd, most_descriptors: usize) -> Self {
        let (descriptors, output) = (VecDeque::new(), VecDeque::new());
        Self { socket, input: [0; INPUT_BYTES], filled: 0, descriptors, most_descriptors, output }
    }

    /// Connects to the coordinator of a runtime directory, without waiting for it: a socket whose queue is full is as good
    /// as none.
    ///
    /// # Errors
    /// [`ChannelError::Io`] where nobody listens there, [`ChannelError::Stranger`] where it is somebody whom we must not believe.
    pub fn connect(directory: &Path) -> Result<Self, ChannelError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Never a standard stream's number: a program that closed its own may write to 0 to 2 as if they were open.
        let socket = rustix::io::fcntl_dupfd_cloexec(&socket, 3)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(directory::socket(directory))?)?;
        let listener = credentials::of_peer(&socket).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        let us = rustix::process::geteuid().as_raw();
        if listener.uid != 0 && listener.uid != us {
            return Err(ChannelError::Stranger { uid: listener.uid });
        }
        Ok(Self::over(socket, FROM_COORDINATOR))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn peer(&self) -> io::Result<Credentials> {
        credentials::of_peer(&self.socket)
    }

    /// Takes what has come, once, as much as there is room for.
    ///
    /// # Errors
    /// [`ChannelError::Io`], or [`MessageError::Corrupt`] where far too many descriptors came.
    pub fn receive(&mut self) -> Result<Received, ChannelError> {
        let Some(room) = self.input.get_mut(self.filled..).filter(|room| !room.is_empty()) else {
            return Ok(Received::Nothing);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(room)], &mut control, flags)
        });
        let bytes = match received {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET | Errno::PIPE) => return Ok(Received::End),
            Err(e) => return Err(e.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > self.most_descriptors {
            return Err(MessageError::Corrupt { field: "descriptors" }.into());
        }
        self.filled += bytes;
        Ok(if bytes == 0 { Received::End } else { Received::Some })
    }

    /// The next message that has come in full, and the descriptor that goes with it.
    ///
    /// # Errors
    /// [`MessageError`]; what comes after cannot be read.
    pub fn read<M: Message>(&mut self) -> Result<Option<(M, Option<OwnedFd>)>, MessageError> {
        let input = self.input.get(..self.filled).unwrap_or_default();
        let Some((head, rest)) = input.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let (code, bytes) = decode_head(*head)?;
        let Some(body) = rest.get(..bytes) else {
            return Ok(None);
        };
        let message = M::decode(code, body)?;
        let descriptor = match message.carries_descriptor() {
            true => Some(self.descriptors.pop_front().ok_or(MessageError::NoDescriptor)?),
            false => None,
        };
        let end = HEAD_BYTES + bytes;
        self.input.copy_within(end..self.filled, 0);
        self.filled -= end;
        // What is left over when all has been read belongs to no message.
        if self.filled == 0 {
            self.descriptors.clear();
        }
        Ok(Some((message, descriptor)))
    }

    /// Sends a message, or nothing of it.
    ///
    /// # Errors
    /// Those of sendmsg(2), EPIPE where the other side has gone.
    pub fn send(&mut self, message: &impl Message, descriptor: Option<BorrowedFd<'_>>) -> Result<Sent, ChannelError> {
        if !self.flush()? {
            return Ok(Sent::Full);
        }
        let encoded = message.encode();
        let bytes = encoded.as_ref();
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)
        });
        match sent {
            // The descriptor went with the first byte.
            Ok(done) => self.output.extend(bytes.get(done..).unwrap_or_default()),
            Err(Errno::AGAIN) => return Ok(Sent::Full),
            Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => return Ok(Sent::TooManyDescriptors),
            Err(e) => return Err(e.into()),
        }
        Ok(Sent::Yes)
    }

    /// Sends on what an earlier message has left; false while something is left.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn flush(&mut self) -> Result<bool, ChannelError> {
        while !self.output.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, self.output.as_slices().0, flags));
            match sent {
                Ok(done) => drop(self.output.drain(..done)),
                Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    /// Sends a request and waits for the next answer, both together at most so long.
    ///
    /// # Errors
    /// [`ChannelError`]; [`ChannelError::TimedOut`] where nothing came.
    pub fn ask(
        &mut self,
        request: &Request,
        descriptor: Option<BorrowedFd<'_>>,
        at_most: Duration,
    ) -> Result<(Answer, Option<OwnedFd>), ChannelError> {
        let until = Instant::now() + at_most;
        match self.send(request, descriptor) {
            // Whoever refuses us has said why before it hung up.
            Ok(Sent::Yes) | Err(ChannelError::Io(Errno::PIPE | Errno::CONNRESET)) => {}
            Ok(Sent::Full | Sent::TooManyDescriptors) => return Err(ChannelError::TimedOut),
            Err(e) => return Err(e),
        }
        self.answer(until)
    }

    /// Waits for the next message of the coordinator, until then at most.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn answer(&mut self, until: Instant) -> Result<(Answer, Option<OwnedFd>), ChannelError> {
        loop {
            if let Some(answer) = self.read()? {
                return Ok(answer);
            }
            match self.receive()? {
                Received::Some => {}
                Received::End => return Err(ChannelError::Ended),
                Received::Nothing => self.wait_readable(until)?,
            }
        }
    }

    fn wait_readable(&mut self, until: Instant) -> Result<(), ChannelError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ChannelError::TimedOut);
        }
        self.flush()?;
        let limit = rustix::time::Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
