//! The commands that talk to the coordinator: `aictl daemon status`, `aictl policy`, `aictl set`.
//!
//! What there is to know of clients stands on the board, which it passes with its answer; it is asked for what GPUs do, and for nothing else.

pub(crate) mod policy;
pub(crate) mod set;
pub(crate) mod status;

use crate::failure::Failure;
use aishim_abi::board_reader::BoardView;
use aishim_abi::channel::{Channel, ChannelError};
use aishim_abi::directory;
use aishim_abi::message::{Answer, AskGpu, AskStatus, GpuFigures, Reason, Refused, Request, Status, VERSION, Version};
use aishim_abi::rank::Uuid;
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// It answers within milliseconds, or is stopped.
const PATIENCE: Duration = Duration::from_secs(3);

/// The coordinator of this user's runtime directory.
pub(crate) struct Coordinator {
    channel: Channel,
    directory: PathBuf,
}

impl Coordinator {
    /// Connects to it.
    pub(crate) fn find() -> Result<Self, Failure> {
        let uid = rustix::process::geteuid().as_raw();
        let directory = directory::path(std::env::var_os(directory::VARIABLE), uid);
        match Channel::connect(&directory) {
            Ok(channel) => Ok(Self { channel, directory }),
            Err(ChannelError::Io(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR)) => Err(Failure::Error(format!(
                "no coordinator listens in {}; start one there with `aischedd`, or say with AISHIM_DIR where it is",
                directory.display()
            ))),
            Err(error) => Err(failed(&directory, &error)),
        }
    }

    /// Who it is, and its board.
    pub(crate) fn status(&mut self) -> Result<(Status, BoardView), Failure> {
        let request = Request::from(AskStatus { version: Version });
        let answer = self.channel.ask(&request, None, PATIENCE).map_err(|e| failed(&self.directory, &e))?;
        let (status, board) = match answer {
            (Answer::Status(status), Some(board)) => (status, board),
            (other, _) => return Err(refused(&other)),
        };
        let board = BoardView::open(board);
        let board = board
            .map_err(|e| Failure::Error(format!("the coordinator's board {e}: use the aictl that came with it")))?;
        Ok((status, board))
    }

    /// What a GPU does; none where no client uses it any more.
    pub(crate) fn figures(&mut self, uuid: Uuid) -> Result<Option<GpuFigures>, Failure> {
        let request = Request::from(AskGpu { version: Version, uuid });
        match self.channel.ask(&request, None, PATIENCE).map_err(|e| failed(&self.directory, &e))?.0 {
            Answer::GpuFigures(figures) => Ok(Some(figures)),
            Answer::Refused(Refused { reason: Reason::NoSuchGpu, .. }) => Ok(None),
            other => Err(refused(&other)),
        }
    }

    /// Has something done.
    pub(crate) fn have_done(&mut self, request: impl Into<Request>) -> Result<(), Failure> {
        match self.channel.ask(&request.into(), None, PATIENCE) {
            Ok((Answer::Done(_), _)) => Ok(()),
            Ok((other, _)) => Err(refused(&other)),
            Err(error) => Err(failed(&self.directory, &error)),
        }
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> String {
        self.directory.display().to_string()
    }
}

fn failed(directory: &std::path::Path, error: &ChannelError) -> Failure {
    Failure::Error(format!("the coordinator in {} cannot be asked: {error}", directory.display()))
}

fn refused(answer: &Answer) -> Failure {
    Failure::Error(match answer {
        Answer::Refused(Refused { reason: Reason::OtherVersion, version, .. }) => format!(
            "the coordinator speaks version {version} of the messages, and this aictl {VERSION}: use the one that came with it"
        ),
        Answer::Refused(Refused {
            reason: reason @ (Reason::AboveLimit | Reason::WeightAboveLimit), limit, ..
        }) => {
            format!("the coordinator refuses: {reason}, which is {limit} for you")
        }
        Answer::Refused(Refused { reason, .. }) => format!("the coordinator refuses: {reason}"),
        other => format!("the coordinator gave an answer that makes no sense here: {other:?}"),
    })
}
