// The whole run in one process, so that there is one browser: node all.mjs [part of a name …]
import { after } from 'node:test'
import { rmSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { artefacts, closeBrowser } from './people.mjs'

rmSync(join(artefacts, 'measures.json'), { force: true })
const wanted = process.argv.slice(2)
after(closeBrowser)
for (const name of (await readdir(new URL('.', import.meta.url))).filter((n) => n.endsWith('.test.mjs')).sort())
  if (wanted.length === 0 || wanted.some((w) => name.includes(w))) await import(`./${name}`)
