//! What Netflix's engine understands: it closes the connection to a peer that sends anything else,
//! with all that others have in flight on it.

use dynomite_protocol::resp::Request;

/// How many arguments it wants behind the name.
enum Wanted {
    Exactly(usize),
    AtLeast(usize),
}

fn wanted(name: &[u8]) -> Option<Wanted> {
    use Wanted::{AtLeast, Exactly};
    Some(match name {
        b"get" | b"ttl" | b"pttl" | b"persist" | b"type" | b"dump" | b"decr" | b"incr"
        | b"strlen" | b"hgetall" | b"hkeys" | b"hlen" | b"hvals" | b"llen" | b"lpop" | b"rpop"
        | b"scard" | b"smembers" | b"srandmember" | b"zcard" | b"pfcount" => Exactly(1),
        b"expire" | b"expireat" | b"pexpire" | b"pexpireat" | b"append" | b"decrby" | b"incrby"
        | b"incrbyfloat" | b"getbit" | b"getset" | b"setnx" | b"hexists" | b"hget" | b"lindex"
        | b"lpushx" | b"rpushx" | b"rpoplpush" | b"sismember" | b"zrank" | b"zrevrank"
        | b"zscore" => Exactly(2),
        b"getrange" | b"setrange" | b"psetex" | b"setex" | b"setbit" | b"hincrby"
        | b"hincrbyfloat" | b"hset" | b"hsetnx" | b"lrange" | b"lrem" | b"lset" | b"ltrim"
        | b"smove" | b"zcount" | b"zincrby" | b"zlexcount" | b"zremrangebylex"
        | b"zremrangebyrank" | b"zremrangebyscore" | b"restore" => Exactly(3),
        b"linsert" => Exactly(4),
        b"script" | b"set" | b"sort" | b"bitcount" | b"hdel" | b"hmget" | b"hmset" | b"hscan"
        | b"lpush" | b"rpush" | b"sadd" | b"srem" | b"spop" | b"sdiff" | b"sdiffstore"
        | b"sinter" | b"sinterstore" | b"sunion" | b"sunionstore" | b"sscan" | b"zadd"
        | b"zrem" | b"zrange" | b"zrevrange" | b"zrangebyscore" | b"zrevrangebyscore"
        | b"zrangebylex" | b"zrevrangebylex" | b"zinterstore" | b"zunionstore" | b"zscan"
        | b"pfadd" | b"geoadd" | b"geodist" | b"geohash" | b"geopos" | b"georadius"
        | b"georadiusbymember" | b"json.set" | b"json.get" | b"json.del" | b"json.type"
        | b"json.mget" | b"json.arrappend" | b"json.arrinsert" | b"json.arrlen"
        | b"json.objkeys" | b"json.objlen" | b"del" | b"exists" | b"mget" | b"mset" => AtLeast(1),
        b"eval" | b"evalsha" => AtLeast(3),
        _ => return None,
    })
}

/// Whether Netflix's engine takes this request from a peer.
pub fn understands(request: &Request) -> bool {
    let name = request.arg(0).to_ascii_lowercase();
    let count = request.len().saturating_sub(1);
    match wanted(&name) {
        Some(Wanted::Exactly(wanted)) => count == wanted,
        Some(Wanted::AtLeast(wanted)) => count >= wanted,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_real_engine_took_is_understood() {
        for (words, expected) in [
            ("GET k", true),
            ("get k", true),
            ("LPOP k", true),
            ("LPOP k 2", false),
            ("HSET k f v", true),
            ("HSET k f v g w", false),
            ("SET k v PXAT 5", true),
            ("PEXPIREAT k 5", true),
            ("PEXPIREAT k 5 NX", false),
            ("RESTORE k 0 data", true),
            ("RESTORE k 5 data ABSTTL", false),
            ("UNLINK k", false),
            ("XADD s 1-1 f v", false),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            assert_eq!(
                understands(&Request::from_args(&words)),
                expected,
                "{words:?}"
            );
        }
    }
}
