//! The workloads inside the measured containers: `nacre-bench workload WORDS`.
//!
//! Each writes a byte to standard output right before what is timed and another right after it, so
//! that a reader outside times that and nothing else.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// The size of one sequential read or write, and of one write of a bulk transfer, in bytes.
const BLOCK: usize = 1 << 20;
/// How much is printed at a time: as much as a pipe holds.
const PIPE: usize = 64 << 10;
/// The size of one random read or write.
const PAGE: usize = 4096;
/// The content of a small file.
const SMALL: [u8; 100] = [b's'; 100];
/// The content of a request, and of a response.
const MESSAGE: [u8; 64] = [b'm'; 64];
/// How often a connection is tried, a tenth of a second apart.
const TRIES: usize = 600;

/// Runs one of the workloads.
pub(crate) fn run(words: &[&str]) -> Result<(), Box<dyn Error>> {
    match *words {
        ["print", bytes] => print(bytes.parse()?),
        ["write", file, mebibytes] => write(Path::new(file), mebibytes.parse()?),
        ["read", file] => read(Path::new(file)),
        ["random-read", file, count] => random_read(Path::new(file), count.parse()?),
        ["random-write", file, count] => random_write(Path::new(file), count.parse()?),
        ["small-files", directory, count] => small_files(Path::new(directory), count.parse()?),
        ["serve", address] => serve(address),
        ["ask", address, count] => ask(address, count.parse()?),
        ["send", address, mebibytes] => send(address, mebibytes.parse()?),
        _ => Err(format!("no such workload: {words:?}").into()),
    }
}

/// Signals that what is timed begins, or has ended.
fn mark() -> io::Result<()> {
    io::stdout().write_all(b".")?;
    io::stdout().flush()
}

/// Writes that many bytes, and a mark before them.
fn print(bytes: usize) -> Result<(), Box<dyn Error>> {
    let block = vec![b'p'; PIPE];
    let mut output = io::stdout().lock();
    mark()?;
    let mut left = bytes;
    while left > 0 {
        let next = block.get(..left).unwrap_or(&block);
        output.write_all(next)?;
        left -= next.len();
    }
    Ok(())
}

fn write(file: &Path, mebibytes: u32) -> Result<(), Box<dyn Error>> {
    let block = vec![b'w'; BLOCK];
    mark()?;
    let mut file = File::create(file)?;
    for _ in 0..mebibytes {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(mark()?)
}

fn read(file: &Path) -> Result<(), Box<dyn Error>> {
    let mut block = vec![0; BLOCK];
    mark()?;
    let mut file = File::open(file)?;
    while file.read(&mut block)? > 0 {}
    Ok(mark()?)
}

fn random_read(file: &Path, count: u32) -> Result<(), Box<dyn Error>> {
    let file = File::open(file)?;
    let mut page = [0; PAGE];
    let offsets = offsets(file.metadata()?.len());
    mark()?;
    for offset in offsets.take(count as usize) {
        file.read_exact_at(&mut page, offset)?;
    }
    Ok(mark()?)
}

fn random_write(file: &Path, count: u32) -> Result<(), Box<dyn Error>> {
    let file = OpenOptions::new().write(true).open(file)?;
    let offsets = offsets(file.metadata()?.len());
    mark()?;
    for offset in offsets.take(count as usize) {
        file.write_all_at(&[b'r'; PAGE], offset)?;
    }
    file.sync_all()?;
    Ok(mark()?)
}

/// Returns offsets of pages in a file of that length: the same ones each time.
fn offsets(length: u64) -> impl Iterator<Item = u64> {
    let pages = (length / PAGE as u64).max(1);
    // Marsaglia's xorshift.
    let next = |state: &u64| {
        let mut state = *state;
        state ^= state << 13;
        state ^= state >> 7;
        Some(state ^ state << 17)
    };
    std::iter::successors(Some(0x2545_f491_4f6c_dd1d), next)
        .map(move |state| state % pages * PAGE as u64)
}

fn small_files(directory: &Path, count: u32) -> Result<(), Box<dyn Error>> {
    mark()?;
    for directory_number in 0..count.div_ceil(100) {
        let directory = directory.join(directory_number.to_string());
        fs::create_dir_all(&directory)?;
        for number in 0..100.min(count - directory_number * 100) {
            fs::write(directory.join(number.to_string()), SMALL)?;
        }
    }
    Ok(mark()?)
}

/// Answers one connection after another: if the first message is [`MESSAGE`], each message with one
/// of the same length, else everything with one byte at its end.
fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address)?;
    mark()?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        connection.set_nodelay(true)?;
        let mut message = [0; MESSAGE.len()];
        connection.read_exact(&mut message)?;
        if message == MESSAGE {
            while connection.write_all(&message).is_ok()
                && connection.read_exact(&mut message).is_ok()
            {}
        } else {
            let mut block = vec![0; BLOCK];
            while connection.read(&mut block)? > 0 {}
            connection.write_all(b"!")?;
        }
    }
    Ok(())
}

fn connect(address: &str) -> Result<TcpStream, Box<dyn Error>> {
    let mut last = None;
    for _ in 0..TRIES {
        match TcpStream::connect(address) {
            Ok(connection) => {
                connection.set_nodelay(true)?;
                return Ok(connection);
            }
            Err(error) => last = Some(error),
        }
        sleep(Duration::from_millis(100));
    }
    Err(format!("can't connect to {address}: {last:?}").into())
}

fn ask(address: &str, count: u32) -> Result<(), Box<dyn Error>> {
    let mut connection = connect(address)?;
    let mut answer = MESSAGE;
    mark()?;
    for _ in 0..count {
        connection.write_all(&MESSAGE)?;
        connection.read_exact(&mut answer)?;
    }
    Ok(mark()?)
}

fn send(address: &str, mebibytes: u32) -> Result<(), Box<dyn Error>> {
    let mut connection = connect(address)?;
    let block = vec![b'b'; BLOCK];
    mark()?;
    for _ in 0..mebibytes {
        connection.write_all(&block)?;
    }
    connection.shutdown(std::net::Shutdown::Write)?;
    connection.read_exact(&mut [0])?;
    Ok(mark()?)
}
