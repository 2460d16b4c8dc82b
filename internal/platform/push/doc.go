// Package push carries what happens now to those who watch: live connections over server-sent events or WebSocket, fan-out
// by topic, and a short history by which a client that lost its connection goes on without a gap.
//
// It owns connections, their limits and the history. It does not own what is said nor who may hear it: the caller checks
// that, and names the topics, before he calls ServeSSE or ServeWebSocket. Topic names never leave the process.
//
// Every frame has a position, "epoch-offset". The offset counts the frames of one hub over all topics; the epoch is drawn
// when the hub opens (Open). The hubs of several nodes (OpenShared) count together, over a log in Redis, and have one epoch. A client that comes back with its last position gets the frames that it missed or, when they are no
// longer all there (another epoch, too long away), one frame of kind "reset", upon which it must read the state anew by
// the ordinary API. A reset also comes to those who listen when frames may have been missed on the way between nodes. The idea is
// that of Centrifugo's recovery.
//
// Publishing costs the same whether nobody or fifty thousand listen: it notes the frame down, and one goroutine fans it
// out in order. A frame is encoded once for each transport. A reader who does not keep up is cut off, and may come back
// with his position.
package push
