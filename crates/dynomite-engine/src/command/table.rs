//! The table of commands.

use super::Access::{Read, Write};
use super::Class::{Everywhere, Keyed, Own, Refused, Script, Store};
use super::Keys::{
    All, Counted, CountedWithDestination, First, FirstAndStore, FirstTwo, FromSecond, Pairs,
    Second, Streams,
};
use super::Refusal::{Blocking, Dangerous, Databases, NotBuilt, PubSub, Transaction};
use super::{Access, Class, Command, Compare, Split};

const fn row(name: &'static str, arity: i16, access: Access, class: Class) -> Command {
    Command {
        name,
        arity,
        access,
        class,
        compare: Compare::Bytes,
    }
}

/// A read whose answer has one value per key or field.
const fn list(name: &'static str, arity: i16, class: Class) -> Command {
    Command {
        name,
        arity,
        access: Read,
        class,
        compare: Compare::ByElement,
    }
}

/// A read whose answer is a set.
const fn set(name: &'static str, arity: i16, class: Class) -> Command {
    Command {
        name,
        arity,
        access: Read,
        class,
        compare: Compare::AsSets,
    }
}

const fn no(name: &'static str, reason: super::Refusal) -> Command {
    row(name, -1, Write, Refused(reason))
}

#[rustfmt::skip]
pub(super) const COMMANDS: &[Command] = &[
    // Strings
    row("append", 3, Write, Keyed(First)), row("bitcount", -2, Read, Keyed(First)),
    row("bitfield", -2, Write, Keyed(First)), row("bitfield_ro", -2, Read, Keyed(First)),
    row("bitop", -4, Write, Keyed(FromSecond)), row("bitpos", -3, Read, Keyed(First)),
    row("decr", 2, Write, Keyed(First)), row("decrby", 3, Write, Keyed(First)),
    row("get", 2, Read, Keyed(First)), row("getbit", 3, Read, Keyed(First)),
    row("getdel", 2, Write, Keyed(First)), row("getex", -2, Write, Keyed(First)),
    row("getrange", 4, Read, Keyed(First)), row("getset", 3, Write, Keyed(First)),
    row("incr", 2, Write, Keyed(First)), row("incrby", 3, Write, Keyed(First)),
    row("incrbyfloat", 3, Write, Keyed(First)), row("lcs", -3, Read, Keyed(FirstTwo)),
    list("mget", -2, Class::Split(Split::Array)), row("mset", -3, Write, Class::Split(Split::Pairs)),
    row("msetnx", -3, Write, Keyed(Pairs)), row("psetex", 4, Write, Keyed(First)),
    row("set", -3, Write, Keyed(First)), row("setbit", 4, Write, Keyed(First)),
    row("setex", 4, Write, Keyed(First)), row("setnx", 3, Write, Keyed(First)),
    row("setrange", 4, Write, Keyed(First)), row("strlen", 2, Read, Keyed(First)),
    row("substr", 4, Read, Keyed(First)),
    // Keys
    row("copy", -3, Write, Keyed(FirstTwo)), row("del", -2, Write, Class::Split(Split::Sum)),
    row("dump", 2, Read, Keyed(First)), row("exists", -2, Read, Class::Split(Split::Sum)),
    row("expire", -3, Write, Keyed(First)), row("expireat", -3, Write, Keyed(First)),
    row("expiretime", 2, Read, Keyed(First)), row("object", -3, Read, Keyed(Second)),
    row("persist", 2, Write, Keyed(First)), row("pexpire", -3, Write, Keyed(First)),
    row("pexpireat", -3, Write, Keyed(First)), row("pexpiretime", 2, Read, Keyed(First)),
    row("pttl", 2, Read, Keyed(First)), row("rename", 3, Write, Keyed(FirstTwo)),
    row("renamenx", 3, Write, Keyed(FirstTwo)), row("restore", -4, Write, Keyed(First)),
    row("sort", -2, Write, Keyed(FirstAndStore)), row("sort_ro", -2, Read, Keyed(First)),
    row("touch", -2, Read, Class::Split(Split::Sum)), row("ttl", 2, Read, Keyed(First)),
    row("type", 2, Read, Keyed(First)), row("unlink", -2, Write, Class::Split(Split::Sum)),
    // Hashes
    row("hdel", -3, Write, Keyed(First)), row("hexists", 3, Read, Keyed(First)),
    row("hget", 3, Read, Keyed(First)), set("hgetall", 2, Keyed(First)),
    row("hincrby", 4, Write, Keyed(First)), row("hincrbyfloat", 4, Write, Keyed(First)),
    set("hkeys", 2, Keyed(First)), row("hlen", 2, Read, Keyed(First)),
    list("hmget", -3, Keyed(First)), row("hmset", -4, Write, Keyed(First)),
    row("hrandfield", -2, Read, Keyed(First)), row("hscan", -3, Read, Keyed(First)),
    row("hset", -4, Write, Keyed(First)), row("hsetnx", 4, Write, Keyed(First)),
    row("hstrlen", 3, Read, Keyed(First)), set("hvals", 2, Keyed(First)),
    // Lists
    row("lindex", 3, Read, Keyed(First)), row("linsert", 5, Write, Keyed(First)),
    row("llen", 2, Read, Keyed(First)), row("lmove", 5, Write, Keyed(FirstTwo)),
    row("lmpop", -4, Write, Keyed(Counted(1))), row("lpop", -2, Write, Keyed(First)),
    row("lpos", -3, Read, Keyed(First)), row("lpush", -3, Write, Keyed(First)),
    row("lpushx", -3, Write, Keyed(First)), row("lrange", 4, Read, Keyed(First)),
    row("lrem", 4, Write, Keyed(First)), row("lset", 4, Write, Keyed(First)),
    row("ltrim", 4, Write, Keyed(First)), row("rpop", -2, Write, Keyed(First)),
    row("rpoplpush", 3, Write, Keyed(FirstTwo)), row("rpush", -3, Write, Keyed(First)),
    row("rpushx", -3, Write, Keyed(First)),
    // Sets
    row("sadd", -3, Write, Keyed(First)), row("scard", 2, Read, Keyed(First)),
    set("sdiff", -2, Keyed(All)), row("sdiffstore", -3, Write, Keyed(All)),
    set("sinter", -2, Keyed(All)), row("sintercard", -3, Read, Keyed(Counted(1))),
    row("sinterstore", -3, Write, Keyed(All)), row("sismember", 3, Read, Keyed(First)),
    set("smembers", 2, Keyed(First)), list("smismember", -3, Keyed(First)),
    row("smove", 4, Write, Keyed(FirstTwo)), row("spop", -2, Write, Keyed(First)),
    row("srandmember", -2, Read, Keyed(First)), row("srem", -3, Write, Keyed(First)),
    row("sscan", -3, Read, Keyed(First)), set("sunion", -2, Keyed(All)),
    row("sunionstore", -3, Write, Keyed(All)),
    // Sorted sets
    row("zadd", -4, Write, Keyed(First)), row("zcard", 2, Read, Keyed(First)),
    row("zcount", 4, Read, Keyed(First)), row("zdiff", -3, Read, Keyed(Counted(1))),
    row("zdiffstore", -4, Write, Keyed(CountedWithDestination)), row("zincrby", 4, Write, Keyed(First)),
    row("zinter", -3, Read, Keyed(Counted(1))), row("zintercard", -3, Read, Keyed(Counted(1))),
    row("zinterstore", -4, Write, Keyed(CountedWithDestination)), row("zlexcount", 4, Read, Keyed(First)),
    row("zmpop", -4, Write, Keyed(Counted(1))), list("zmscore", -3, Keyed(First)),
    row("zpopmax", -2, Write, Keyed(First)), row("zpopmin", -2, Write, Keyed(First)),
    row("zrandmember", -2, Read, Keyed(First)), row("zrange", -4, Read, Keyed(First)),
    row("zrangebylex", -4, Read, Keyed(First)), row("zrangebyscore", -4, Read, Keyed(First)),
    row("zrangestore", -5, Write, Keyed(FirstTwo)), row("zrank", -3, Read, Keyed(First)),
    row("zrem", -3, Write, Keyed(First)), row("zremrangebylex", 4, Write, Keyed(First)),
    row("zremrangebyrank", 4, Write, Keyed(First)), row("zremrangebyscore", 4, Write, Keyed(First)),
    row("zrevrange", -4, Read, Keyed(First)), row("zrevrangebylex", -4, Read, Keyed(First)),
    row("zrevrangebyscore", -4, Read, Keyed(First)), row("zrevrank", -3, Read, Keyed(First)),
    row("zscan", -3, Read, Keyed(First)), row("zscore", 3, Read, Keyed(First)),
    row("zunion", -3, Read, Keyed(Counted(1))), row("zunionstore", -4, Write, Keyed(CountedWithDestination)),
    // HyperLogLog, geo
    row("pfadd", -2, Write, Keyed(First)), row("pfcount", -2, Read, Keyed(All)),
    row("pfmerge", -2, Write, Keyed(All)), row("geoadd", -5, Write, Keyed(First)),
    row("geodist", -4, Read, Keyed(First)), row("geohash", -2, Read, Keyed(First)),
    row("geopos", -2, Read, Keyed(First)), row("georadius", -6, Write, Keyed(FirstAndStore)),
    row("georadius_ro", -6, Read, Keyed(First)), row("georadiusbymember", -5, Write, Keyed(FirstAndStore)),
    row("georadiusbymember_ro", -5, Read, Keyed(First)), row("geosearch", -7, Read, Keyed(First)),
    row("geosearchstore", -8, Write, Keyed(FirstTwo)),
    // Streams
    row("xack", -4, Write, Keyed(First)), row("xadd", -5, Write, Keyed(First)),
    row("xdel", -3, Write, Keyed(First)), row("xlen", 2, Read, Keyed(First)),
    row("xrange", -4, Read, Keyed(First)), row("xread", -4, Read, Keyed(Streams)),
    row("xrevrange", -4, Read, Keyed(First)), row("xsetid", -3, Write, Keyed(First)),
    row("xtrim", -4, Write, Keyed(First)), row("xgroup", -2, Write, Keyed(Second)),
    row("xinfo", -2, Read, Keyed(Second)), row("xpending", -3, Read, Keyed(First)),
    // JSON module, as Netflix's engine passes it on
    row("json.set", -4, Write, Keyed(First)), row("json.get", -2, Read, Keyed(First)),
    row("json.del", -2, Write, Keyed(First)), row("json.type", -2, Read, Keyed(First)),
    row("json.arrappend", -4, Write, Keyed(First)), row("json.arrinsert", -5, Write, Keyed(First)),
    row("json.arrlen", -2, Read, Keyed(First)), row("json.objkeys", -2, Read, Keyed(First)),
    row("json.objlen", -2, Read, Keyed(First)), row("json.mget", -3, Read, Keyed(First)),
    // Scripts
    row("eval", -3, Write, Script), row("evalsha", -3, Write, Script),
    row("eval_ro", -3, Read, Script), row("evalsha_ro", -3, Read, Script),
    row("script", -2, Write, Everywhere),
    // The contacted node only
    row("keys", 2, Read, Store), row("scan", -2, Read, Store), row("info", -1, Read, Store),
    row("ping", -1, Read, Store), row("dbsize", 1, Read, Store), row("randomkey", 1, Read, Store),
    row("time", 1, Read, Store), row("memory", -2, Read, Keyed(Second)),
    // Answered by the engine
    row("auth", -2, Read, Own), row("client", -2, Read, Own), row("command", -1, Read, Own),
    row("config", -2, Read, Own), row("dyno_config:conn_consistency", 2, Read, Own),
    row("echo", 2, Read, Own), row("hello", -1, Read, Own), row("quit", -1, Read, Own),
    row("reset", 1, Read, Own), row("select", 2, Read, Own),
    // Refused
    no("acl", Dangerous), no("bgrewriteaof", Dangerous), no("bgsave", Dangerous),
    no("cluster", NotBuilt), no("debug", Dangerous), no("failover", Dangerous),
    no("flushall", Dangerous), no("flushdb", Dangerous), no("function", NotBuilt),
    no("fcall", NotBuilt), no("fcall_ro", NotBuilt), no("latency", NotBuilt),
    no("lastsave", NotBuilt), no("migrate", Dangerous), no("module", Dangerous),
    no("monitor", Dangerous), no("move", Databases), no("psync", Dangerous),
    no("replconf", Dangerous), no("replicaof", Dangerous), no("restore-asking", Dangerous),
    no("role", NotBuilt), no("save", Dangerous), no("shutdown", Dangerous),
    no("slaveof", Dangerous), no("slowlog", NotBuilt), no("swapdb", Databases),
    no("sync", Dangerous), no("wait", NotBuilt), no("waitaof", NotBuilt),
    no("readonly", NotBuilt), no("readwrite", NotBuilt), no("asking", NotBuilt),
    no("discard", Transaction), no("exec", Transaction), no("multi", Transaction),
    no("unwatch", Transaction), no("watch", Transaction),
    no("psubscribe", PubSub), no("publish", PubSub), no("pubsub", PubSub),
    no("punsubscribe", PubSub), no("spublish", PubSub), no("ssubscribe", PubSub),
    no("subscribe", PubSub), no("sunsubscribe", PubSub), no("unsubscribe", PubSub),
    no("blmove", Blocking), no("blmpop", Blocking), no("blpop", Blocking),
    no("brpop", Blocking), no("brpoplpush", Blocking), no("bzmpop", Blocking),
    no("bzpopmax", Blocking), no("bzpopmin", Blocking), no("xreadgroup", NotBuilt),
    no("xclaim", NotBuilt), no("xautoclaim", NotBuilt),
];
