// Package redis is the one connection of a node to the one Redis of the house: commands, scripts, and messages between nodes.
//
// It owns how the server is reached (single, behind sentinels or as a cluster), how long a call may take, what happens while it
// is away, and the messages by which nodes wake each other. It does not own what is kept there: each part and room owns its keys
// and its scripts, and what it does without Redis.
//
// A call either answers within Config.Timeout or fails with CodeUnavailable. After a few failures in a row calls fail at once,
// without waiting, until a probe in the background gets an answer again. Nothing is tried again behind the caller's back: a call
// that failed may have been carried out.
//
// Nodes speak to each other over publish/subscribe, which loses messages when a connection breaks. Each message is numbered by
// its sender and each sender says once a second how far he has counted, so that a loss is noticed within a few seconds and told.
package redis
