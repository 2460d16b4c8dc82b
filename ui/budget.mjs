// Fails when what a visitor must load before the first page is over its budget (gzip): the entry, its static imports, its CSS.
import { gzipSync } from 'node:zlib'
import { readFileSync } from 'node:fs'

const budgets = { storefront: 90, console: 260 } // KiB

let over = false
for (const [app, kib] of Object.entries(budgets)) {
  const dir = new URL(`dist/${app}/`, import.meta.url)
  const manifest = JSON.parse(readFileSync(new URL('manifest.json', dir), 'utf8'))
  const files = new Set()
  const visit = (key) => {
    const chunk = manifest[key]
    if (files.has(chunk.file)) return
    files.add(chunk.file)
    for (const css of chunk.css ?? []) files.add(css)
    for (const next of chunk.imports ?? []) visit(next)
  }
  visit(Object.keys(manifest).find((key) => manifest[key].isEntry))
  let sum = 0
  for (const file of files) sum += gzipSync(readFileSync(new URL(file, dir)), { level: 9 }).length
  const size = sum / 1024
  console.log(`${app}: the entry is ${size.toFixed(1)} KiB gzip in ${files.size} files, budget ${kib} KiB`)
  over ||= size > kib
}
if (over) {
  console.error('over budget')
  process.exit(1)
}
