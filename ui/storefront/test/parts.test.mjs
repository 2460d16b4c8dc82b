// What can be proved without a browser. The pages themselves are tested in ui/test.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { runnerImport } from 'vite'

const load = async (path) => (await runnerImport(fileURLToPath(new URL(`../src/${path}`, import.meta.url)), { configFile: false, logLevel: 'error' })).module

test('the hash is SHA-256, whatever comes before the number and however long it is', async () => {
  const { Hasher } = await load('sale/sha256.ts')
  for (let length = 0; length < 200; length++) {
    const beginning = 'q'.repeat(length).replaceAll('qqq', 'qé.')
    const hasher = new Hasher(beginning)
    for (const n of [7, 9, 10, 99_999, 100_000, 3, 2 ** 32, Number.MAX_SAFE_INTEGER, 0]) {
      const got = Array.from(hasher.hash(n), (w) => (w >>> 0).toString(16).padStart(8, '0')).join('')
      assert.equal(got, createHash('sha256').update(beginning + n).digest('hex'), `${length} characters and ${n}`)
    }
  }
})

test('zero bits are counted from the first', async () => {
  const { zeroBits } = await load('sale/sha256.ts')
  for (const [words, bits] of [[[-1, 0], 0], [[0x7fffffff, 0], 1], [[0x0000ffff, 0], 16], [[1, -1], 31], [[0, -1], 32], [[0, 0x00ffffff], 40]]) assert.equal(zeroBits(Int32Array.from(words)), bits)
})

test('both languages fill in the same names', async () => {
  const en = (await load('words/en.ts')).default
  const zh = (await load('words/zh.ts')).default
  const names = (text) => [...new Set(text.match(/\{\w+\}/g))].sort()
  let seen = 0
  const visit = (a, b, path) => {
    for (const key of Object.keys(a)) {
      const at = `${path}.${key}`
      if (typeof a[key] !== 'string') {
        visit(a[key], b[key], at)
        continue
      }
      seen++
      assert.deepEqual(names(b[key]), names(a[key]), at)
      assert.ok(a[key].trim() && b[key].trim(), `${at} is empty`)
      assert.ok(!b[key].includes(' | '), `${at}: Chinese has one form for all numbers`)
      if (at !== '.app.name' && at !== '.app.language') assert.ok(/\p{Script=Han}|^[−{} \w%]+$/u.test(b[key]), `${at} is not Chinese: ${b[key]}`)
    }
  }
  visit(en, zh, '')
  assert.ok(seen > 300)
})

test('a sign-in leads back into this shop and nowhere else', async () => {
  const { nextOf } = await load('state/next.ts')
  for (const good of ['/', '/orders', '/sales/sal_1?x=1#y']) assert.equal(nextOf(good), good)
  for (const bad of ['//evil.example', '/\\evil.example', 'https://evil.example', '/\t/evil.example', '/\n/evil.example', 'javascript:alert(1)', '', undefined, null, ['/a', '/b']]) assert.equal(nextOf(bad), '/')
})
