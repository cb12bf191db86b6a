//! What coordinator, clients and aictl say to each other, version 1.
//!
//! A message is a head of 8 bytes (what it is, how many bytes follow) and a body of fixed layout, all in little-endian
//! numbers, [`MESSAGE_BYTES`] at most. Everything that begins a conversation, and every answer to that, begins with the version,
//! so that two that do not understand each other can at least say so: head, version and [`Refused`] keep their layouts for ever.
//!
//! Decoding is the only way to get one that somebody else wrote, and no message that was decoded holds a value that it may not have.
//! Some carry a descriptor ([`Body::CARRIES_DESCRIPTOR`]); that travels beside the bytes ([`channel`](crate::channel)).

mod field;

use crate::rank::{Class, PolicyKind, Priority, Uuid, Weight, numbered};
use field::Field;
pub use field::{Gpus, Job, Name, Text};
use std::fmt;

/// Version of the messages; changes with every change that another version would misread.
pub const VERSION: u32 = 1;

/// Size of a message's head in bytes.
pub const HEAD_BYTES: usize = 8;

/// Most bytes that a message may have, head and body.
pub const MESSAGE_BYTES: usize = 512;

/// Why bytes are no message that this version can read. The connection that they came by cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// There is no message of that number, or not in this direction.
    Unknown {
        /// The number.
        code: u32,
    },
    /// It has another length than a message of its kind has.
    WrongLength {
        /// Length of its body in bytes.
        bytes: u32,
    },
    /// Another version wrote it.
    OtherVersion {
        /// The version found.
        found: u32,
    },
    /// A field has a value that no writer of this version gives it.
    Corrupt {
        /// Which field.
        field: &'static str,
    },
    /// The descriptor that belongs to it was not sent.
    NoDescriptor,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { code } => write!(f, "there is no message {code}"),
            Self::WrongLength { bytes } => write!(f, "a message has a wrong length, {bytes} bytes"),
            Self::OtherVersion { found } => write!(f, "a message has version {found}, which this aishim does not know"),
            Self::Corrupt { field } => write!(f, "a message is damaged: {field} has an impossible value"),
            Self::NoDescriptor => f.write_str("a message came without its descriptor"),
        }
    }
}

impl std::error::Error for MessageError {}

/// The version of whoever writes; decoding lets no other through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version;

/// Where a field lies in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: &'static str,
    /// In bytes from the beginning of the body.
    pub offset: usize,
    /// In bytes.
    pub bytes: usize,
}

/// A message's body.
pub trait Body: Sized {
    /// The number in the head that stands for it.
    const CODE: u32;
    /// Its size in bytes.
    const BYTES: usize;
    /// Its fields.
    const FIELDS: &'static [Place];
    /// Whether a descriptor goes with it.
    const CARRIES_DESCRIPTOR: bool;

    /// Writes it over `to`, which is [`BYTES`](Self::BYTES) long.
    fn put(&self, to: &mut [u8]);

    /// Reads it from `from`, which is [`BYTES`](Self::BYTES) long.
    ///
    /// # Errors
    /// [`MessageError::Corrupt`] where a field has an impossible value.
    fn take(from: &[u8]) -> Result<Self, MessageError>;
}

/// One direction of a conversation: what one side may say to the other.
pub trait Message: Sized {
    /// Reads the message `code` with this body.
    ///
    /// # Errors
    /// [`MessageError`] says what is wrong with it.
    fn decode(code: u32, body: &[u8]) -> Result<Self, MessageError>;

    /// The message as bytes.
    fn encode(&self) -> Encoded;

    /// Whether a descriptor goes with it.
    fn carries_descriptor(&self) -> bool;
}

/// A message as bytes.
#[derive(Clone, Debug)]
pub struct Encoded {
    bytes: [u8; MESSAGE_BYTES],
    len: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Bodies, each with its number and, for each field, its place, which is compared with what lies before it.
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident = $code:literal, descriptor: $descriptor:literal {
        $($(#[$field_doc:meta])* $field:ident: $kind:ty = $offset:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl Body for $name {
            const CODE: u32 = $code;
            const BYTES: usize = 0 $(+ <$kind as Field>::BYTES)*;
            const FIELDS: &'static [Place] = &[
                $(Place { name: stringify!($field), offset: $offset, bytes: <$kind as Field>::BYTES },)*
            ];
            const CARRIES_DESCRIPTOR: bool = $descriptor;

            fn put(&self, to: &mut [u8]) {
                $(Field::put(&self.$field, &mut to[$offset..$offset + <$kind as Field>::BYTES]);)*
                let _ = to;
            }

            fn take(from: &[u8]) -> Result<Self, MessageError> {
                let _ = from;
                Ok(Self {$(
                    $field: Field::take(&from[$offset..$offset + <$kind as Field>::BYTES])
                        .ok_or(MessageError::Corrupt { field: stringify!($field) })?,
                )*})
            }
        }

        const _: () = assert_places(<$name as Body>::FIELDS, <$name as Body>::BYTES);
    )*};
}

const fn assert_places(fields: &[Place], bytes: usize) {
    let (mut number, mut end) = (0, 0);
    while number < fields.len() {
        assert!(fields[number].offset == end, "a field does not begin where the one before it ends");
        end += fields[number].bytes;
        number += 1;
    }
    assert!(end == bytes && HEAD_BYTES + bytes <= MESSAGE_BYTES);
}

bodies! {
    /// A process wants to be put in order. Its page's descriptor goes with it.
    Hello = 1, descriptor: true {
        /// Version of the messages.
        version: Version = 0,
        /// Process id as the process sees itself.
        pid: u32 = 4,
        /// Start time, field 22 of /proc/PID/stat, in clock ticks since boot.
        start_ticks: u64 = 8,
        /// That of its page.
        generation: u64 = 16,
        /// What kind of work it does.
        class: Class = 24,
        /// The priority it wishes; none: that of its class.
        priority: Option<Priority> = 28,
        /// The share it wishes; none: the usual one.
        weight: Option<Weight> = 32,
        /// The job it is part of; empty for none. Jobs of two users are never the same.
        job: Job = 36,
        /// The GPUs on which it has a context.
        gpus: Gpus = 100,
    }

    /// A client has made a context on another GPU.
    UsesGpu = 2, descriptor: false {
        /// That GPU.
        uuid: Uuid = 0,
    }

    /// Who are you, and who is there? The answer is [`Status`].
    AskStatus = 16, descriptor: false {
        /// Version of the messages.
        version: Version = 0,
    }

    /// Puts another policy in force. The answer is [`Done`] or [`Refused`].
    SetPolicy = 17, descriptor: false {
        /// Version of the messages.
        version: Version = 0,
        /// That policy.
        policy: PolicyKind = 4,
        /// The GPU; [`Uuid::NONE`] for all, also those that come later.
        uuid: Uuid = 8,
    }

    /// Gives a client another class, priority or weight. The answer is [`Done`] or [`Refused`]: all of it is done, or nothing.
    SetClient = 18, descriptor: false {
        /// Version of the messages.
        version: Version = 0,
        /// Its slot on the board.
        slot: u32 = 4,
        /// The generation of its entry there: the same client, not its successor.
        generation: u64 = 8,
        /// The new priority; none: that of the new class, or the one before.
        priority: Option<Priority> = 16,
        /// The new share.
        weight: Option<Weight> = 20,
        /// The new class.
        class: Option<Class> = 24,
    }

    /// What does a GPU do? The answer is [`GpuFigures`] or [`Refused`].
    AskGpu = 19, descriptor: false {
        /// Version of the messages.
        version: Version = 0,
        /// That GPU, which the board names.
        uuid: Uuid = 4,
    }

    /// A process is a client now. The board's descriptor goes with it.
    Welcome = 32, descriptor: true {
        /// Version of the messages.
        version: Version = 0,
        /// Its slot on the board.
        slot: u32 = 4,
        /// The generation of its entry there.
        generation: u64 = 8,
        /// The priority it has: what it wished, or its limit where that is lower.
        priority: Priority = 16,
        /// The highest it may have.
        limit: Priority = 20,
    }

    /// What was asked for is not done. Its layout and number never change.
    Refused = 33, descriptor: false {
        /// Version of the messages of whoever refuses; any.
        version: u32 = 0,
        /// Why.
        reason: Reason = 4,
        /// The limit that was reached, where the reason is one.
        limit: u32 = 8,
    }

    /// A more important client on one of your GPUs: its page's descriptor goes with it. Said again when something of it changes.
    Peer = 34, descriptor: true {
        /// Its slot on the board.
        slot: u32 = 0,
        /// Its priority.
        priority: Priority = 4,
        /// The generation of its entry.
        generation: u64 = 8,
        /// The GPUs it uses: bit N is the N-th of the board.
        gpus: u64 = 16,
    }

    /// One of whom [`Peer`] was said is no longer there, or no longer more important, or no longer on a GPU of yours.
    PeerGone = 35, descriptor: false {
        /// Its slot on the board.
        slot: u32 = 0,
        /// The generation its entry had.
        generation: u64 = 4,
    }

    /// It is done.
    Done = 36, descriptor: false {}

    /// The answer to [`AskStatus`]. The board's descriptor goes with it.
    Status = 37, descriptor: true {
        /// Version of the messages.
        version: Version = 0,
        /// Process id of the coordinator as it sees itself.
        pid: u32 = 4,
        /// Its user.
        uid: u32 = 8,
        /// Most clients it takes.
        max_clients: u32 = 12,
        /// Version of the program.
        program: Name = 16,
    }

    /// The answer to [`AskGpu`]. What is not known is none.
    GpuFigures = 38, descriptor: false {
        /// Version of the messages.
        version: Version = 0,
        /// Where `utilisation_percent` comes from.
        source: Source = 4,
        /// Part of the time in which it computed, lately.
        utilisation_percent: Option<u32> = 8,
        /// The same as the pages of its clients say.
        pages_percent: Option<u32> = 12,
        /// Clock of its multiprocessors in MHz.
        sm_mhz: Option<u32> = 16,
        /// Power it draws, in milliwatts.
        power_mw: Option<u32> = 20,
        /// Memory in use, in bytes.
        memory_used_bytes: Option<u64> = 24,
        /// Memory there is, in bytes.
        memory_total_bytes: Option<u64> = 32,
    }
}

/// A direction: the messages that there are in it.
macro_rules! directions {
    ($($(#[$doc:meta])* $name:ident { $($(#[$body_doc:meta])* $body:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$body_doc])* $body($body),)*
        }

        $(impl From<$body> for $name {
            fn from(body: $body) -> Self {
                Self::$body(body)
            }
        })*

        impl Message for $name {
            fn decode(code: u32, body: &[u8]) -> Result<Self, MessageError> {
                match code {
                    $($body::CODE => decode_body::<$body>(body).map(Self::$body),)*
                    _ => Err(MessageError::Unknown { code }),
                }
            }

            fn encode(&self) -> Encoded {
                match self {
                    $(Self::$body(body) => encode_body(body),)*
                }
            }

            fn carries_descriptor(&self) -> bool {
                match self {
                    $(Self::$body(_) => $body::CARRIES_DESCRIPTOR,)*
                }
            }
        }
    )*};
}

directions! {
    /// What a client or aictl says to the coordinator.
    Request {
        /// A process wants to be put in order.
        Hello,
        /// A client has made a context on another GPU.
        UsesGpu,
        /// Who are you, and who is there?
        AskStatus,
        /// Puts another policy in force.
        SetPolicy,
        /// Gives a client another class, priority or weight.
        SetClient,
        /// What does a GPU do?
        AskGpu,
    }

    /// What the coordinator says.
    Answer {
        /// A process is a client now.
        Welcome,
        /// What was asked for is not done.
        Refused,
        /// A more important client on one of your GPUs.
        Peer,
        /// It is not that any more.
        PeerGone,
        /// It is done.
        Done,
        /// Who the coordinator is.
        Status,
        /// What a GPU does.
        GpuFigures,
    }
}

numbered! {
    /// Where a figure about a GPU comes from.
    Source {
        /// There is none yet.
        Nowhere = 0 "none yet",
        /// What its clients say that they have used.
        Pages = 1 "its clients' pages",
        /// NVML.
        Nvml = 2 "NVML",
    }

    /// Why something is refused.
    Reason {
        /// There are as many clients as the coordinator takes; that number is the limit.
        Full = 1 "there are as many clients as it takes",
        /// The process has as many connections as it may have; that number is the limit.
        TooManyConnections = 2 "too many connections of one process or user that ask for nothing",
        /// The version of what was said is not known; `version` says which is.
        OtherVersion = 3 "it is of another version",
        /// What was said is no message, or has no place here.
        BadMessage = 4 "it was sent something that makes no sense",
        /// The page is not sealed, or damaged.
        BadPage = 5 "the page it was sent is no client's page",
        /// The process is another one than it says, or cannot be seen from here.
        NotYou = 6 "the process is another one than it says, or cannot be seen",
        /// The rules let this user take no part.
        NotAllowed = 7 "its rules do not let this user take part",
        /// The process is a client already.
        AlreadyThere = 8 "the process is a client already",
        /// There are more GPUs than the board has room for; that number is the limit.
        TooManyGpus = 9 "there are more GPUs than it has room for",
        /// The priority is above what the user may give; that is the limit.
        AboveLimit = 10 "the priority is above the limit",
        /// It is another user's.
        NotYours = 11 "it is another user's",
        /// There is no such client, or no longer.
        NoSuchClient = 12 "there is no such client any more",
        /// There is no such policy in this coordinator, or no such GPU.
        NoSuchPolicy = 13 "it has no such policy",
        /// No client uses that GPU.
        NoSuchGpu = 14 "no client uses that GPU",
        /// Nothing was said for too long.
        TooSlow = 15 "nothing was said for too long",
        /// The weight is above what the process may have; that is the limit.
        WeightAboveLimit = 16 "the weight is above the limit",
    }
}

/// The head of a message: what it is, and how many bytes follow.
///
/// # Errors
/// [`MessageError::WrongLength`] where that is more than any message has.
pub fn decode_head(head: [u8; HEAD_BYTES]) -> Result<(u32, usize), MessageError> {
    let [a, b, c, d, rest @ ..] = head;
    let bytes = u32::from_le_bytes(rest);
    if bytes as usize > MESSAGE_BYTES - HEAD_BYTES {
        return Err(MessageError::WrongLength { bytes });
    }
    Ok((u32::from_le_bytes([a, b, c, d]), bytes as usize))
}

fn decode_body<B: Body>(body: &[u8]) -> Result<B, MessageError> {
    // The version before the length: another version's body may well be shorter.
    let begins_with_version = B::FIELDS.first().is_some_and(|f| f.name == "version") && B::CODE != Refused::CODE;
    if let (true, Some(word)) = (begins_with_version, body.first_chunk::<4>()) {
        let found = u32::from_le_bytes(*word);
        if found != VERSION {
            return Err(MessageError::OtherVersion { found });
        }
    }
    if body.len() != B::BYTES {
        return Err(MessageError::WrongLength { bytes: body.len() as u32 });
    }
    B::take(body)
}

fn encode_body<B: Body>(body: &B) -> Encoded {
    let mut encoded = Encoded { bytes: [0; MESSAGE_BYTES], len: HEAD_BYTES + B::BYTES };
    let (head, rest) = encoded.bytes.split_at_mut(HEAD_BYTES);
    head[..4].copy_from_slice(&B::CODE.to_le_bytes());
    head[4..].copy_from_slice(&(B::BYTES as u32).to_le_bytes());
    // `assert_places` has compared the size with that of `bytes`.
    body.put(&mut rest[..B::BYTES]);
    encoded
}
