// Pictures made here, because the repository holds none of others.
import { deflateSync, crc32 } from 'node:zlib'

function chunk(kind, data) {
  const out = Buffer.alloc(data.length + 12)
  out.writeUInt32BE(data.length)
  out.write(kind, 4, 'latin1')
  data.copy(out, 8)
  out.writeUInt32BE(crc32(out.subarray(4, data.length + 8)), data.length + 8)
  return out
}

/** A PNG of a lantern on a quiet ground. */
export function picture(width = 480, height = 360, body = [200, 69, 47], ground = [246, 217, 184]) {
  const rows = Buffer.alloc(height * (width * 3 + 1))
  const soft = (d) => Math.min(Math.max(0.5 - d, 0), 1)
  const box = (x, y, cx, cy, w, h, r) => {
    const dx = Math.abs(x - cx) - w + r
    const dy = Math.abs(y - cy) - h + r
    return Math.hypot(Math.max(dx, 0), Math.max(dy, 0)) + Math.min(Math.max(dx, dy), 0) - r
  }
  const [cx, cy, s] = [width / 2, height / 2, height / 360]
  const layers = [
    [(x, y) => Math.hypot(x - cx, y - cy) - 140 * s, [255, 255, 255], 0.35],
    [(x, y) => box(x, y, cx, cy - 95 * s, 44 * s, 12 * s, 6 * s), [59, 58, 54], 1],
    [(x, y) => box(x, y, cx, cy, 68 * s, 84 * s, 16 * s), body, 1],
    [(x, y) => Math.hypot(x - cx, y - cy) - 38 * s, [255, 217, 138], 1],
    [(x, y) => box(x, y, cx, cy + 93 * s, 50 * s, 12 * s, 6 * s), [59, 58, 54], 1],
  ]
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      let c = ground
      for (const [shape, color, alpha] of layers) {
        const a = soft(shape(x + 0.5, y + 0.5)) * alpha
        if (a > 0) c = c.map((v, i) => v * (1 - a) + color[i] * a)
      }
      const at = y * (width * 3 + 1) + 1 + x * 3
      for (let i = 0; i < 3; i++) rows[at + i] = Math.round(c[i])
    }
  const head = Buffer.alloc(13)
  head.writeUInt32BE(width, 0)
  head.writeUInt32BE(height, 4)
  head.set([8, 2, 0, 0, 0], 8)
  return Buffer.concat([Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]), chunk('IHDR', head), chunk('IDAT', deflateSync(rows, { level: 9 })), chunk('IEND', Buffer.alloc(0))])
}
