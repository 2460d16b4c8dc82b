// Signing in through a third party, in the browser, all the way: the provider is the real one of test/oidc.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { enrol } from './application.mjs'
import { House, root, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'

const files = ['package.json', 'package-lock.json', '.npmrc', 'server.mjs']

/** Where the provider is, installed by its lock file into the user's cache, which test/oidc uses too. */
function installed() {
  const from = join(root, 'test', 'oidc')
  const sum = createHash('sha256')
  for (const name of files) sum.update(readFileSync(join(from, name)))
  const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'levee')
  const dir = join(cache, `oidc-${sum.digest('hex').slice(0, 16)}`)
  if (existsSync(dir)) return dir
  mkdirSync(cache, { recursive: true })
  const fresh = mkdtempSync(join(cache, 'oidc-new-'))
  for (const name of files) cpSync(join(from, name), join(fresh, name))
  execFileSync('npm', ['ci'], { cwd: fresh, stdio: ['ignore', 'ignore', 'inherit'] })
  try {
    renameSync(fresh, dir) // whole or not at all
  } catch (e) {
    rmSync(fresh, { recursive: true, force: true })
    if (!existsSync(dir)) throw e // else another run was first
  }
  return dir
}

describe('signing in through a third party', () => {
  let house, provider, issuer
  before(async () => {
    house = await House.start(async (base) => {
      provider = spawn('node', ['server.mjs'], { cwd: installed(), env: { ...process.env, REDIRECT: `${base}/sign-in/ALG/callback`, NODE_ENV: 'production' }, stdio: 'pipe' })
      let said = '' // it warns of much that a test may do
      provider.stderr.on('data', (chunk) => (said += chunk))
      const [port] = await Promise.race([
        new Promise((resolve) => createInterface(provider.stdout).once('line', (line) => resolve([line]))),
        new Promise((_, reject) => provider.once('exit', (code) => reject(new Error(`the provider ended with ${code}:\n${said}`)))),
      ])
      issuer = `http://127.0.0.1:${port}`
      return {
        http: { public_url: base },
        federation: { insecure: '127.0.0.1', providers: { rs256: { kind: 'oidc', label: 'Example', issuer, client_id: 'levee-RS256', client_secret: 'canary: of 100% & more' } } },
      }
    })
  })
  after(async () => {
    provider?.stdin.end()
    await house?.close()
  })

  /** The provider's own pages are not judged: they load a font, and are not of this house. */
  const open = async (settings) => {
    const p = await Person.open(house, { ...settings, allow: new RegExp(`from elsewhere: ${issuer.replaceAll('.', '\\.')}/|fonts\\.g|\\(${issuer.replaceAll('.', '\\.')}/`) })
    await p.context.route(/fonts\.g/, (route) => route.abort())
    return p
  }

  /** Goes through the provider's pages as login, and consents; resolves when the browser is sent back. */
  async function pass(p, login) {
    const there = () => new URL(p.page.url()).origin === issuer
    await p.page.waitForURL((u) => u.origin === issuer)
    for (let n = 0; n < 5 && there(); n++) {
      const before = p.page.url()
      const name = p.page.locator('input[name="login"]')
      if (await name.count()) {
        await name.fill(login)
        await p.page.locator('input[name="password"]').fill('any')
      }
      await p.page.locator('button[type="submit"]').click()
      await p.page.waitForURL((u) => u.href !== before)
      await p.page.waitForLoadState()
    }
    assert.equal(there(), false, 'the provider sends the browser back')
  }

  const begin = async (p, next) => {
    await p.goto(`/sign-in?next=${next}`)
    await p.hook('third-party', '[data-provider="rs256"]').click()
  }
  const at = (p, path) => p.page.waitForURL((u) => u.origin === house.base && u.pathname === path && u.search === '')

  for (const [size, language, login] of [[phone, 'en', 'mei'], [desktop, 'zh', 'bo']])
    story(`a first visit and a second one, ${language}`, async () => {
      let first
      for (const visit of [1, 2]) {
        const p = await open({ size, language })
        await p.goto('/sign-in?next=/orders')
        await p.hook('third-party').waitFor()
        if (visit === 1) await p.accessible('third parties at the sign-in')
        await begin(p, '/orders')
        await pass(p, login)
        await at(p, '/orders')
        await p.ready('orders')
        await p.goto('/account')
        await p.hook('link', '[data-provider="rs256"]').waitFor()
        if (visit === 1) await p.accessible('a linked account')
        const name = await p.page.locator('h1').innerText()
        first ??= name
        assert.equal(name, first, 'it is the same account')
        if (visit === 2) {
          const refused = p.page.waitForResponse((r) => r.url().endsWith('/v1/me/links/rs256'))
          await p.hook('unlink').click()
          assert.equal((await refused).status(), 409, 'the last way in stays')
          await p.hook('link', '[data-provider="rs256"]').waitFor()
        }
        await p.close()
      }
    })

  story('who has a second factor shows it, and comes where he wanted to', async () => {
    const p = await open()
    await begin(p, '/account')
    await pass(p, 'heron')
    await at(p, '/account')
    await p.ready('account')
    const { app } = await enrol(p)
    await p.close()
    const again = await open()
    await begin(again, '/orders')
    await pass(again, 'heron')
    await again.page.locator('[data-test="second-step"][data-way="totp"]').waitFor()
    assert.equal(new URL(again.page.url()).search, '', 'what the provider gave is out of the address')
    await again.accessible('the second step after a third party')
    await again.hook('second-code').fill(await app.code())
    await again.hook('second-send').click()
    await at(again, '/orders')
    await again.ready('orders')
    await again.close()
  })

  story('somebody links it to his account, and signs in by it', async () => {
    await house.customer('linker')
    const p = await open()
    await p.signIn('linker', '/account')
    await p.hook('third-party').click()
    await pass(p, 'reed')
    await at(p, '/account')
    await p.hook('link', '[data-provider="rs256"]').waitFor()
    await p.close()
    const again = await open()
    await begin(again, '/account')
    await pass(again, 'reed')
    await at(again, '/account')
    await again.ready('account')
    assert.equal(await again.page.locator('h1').innerText(), 'linker')
    await again.hook('unlink').click()
    await again.hook('link').waitFor({ state: 'detached' })
    await again.hook('third-party').waitFor() // it can be linked anew
    await again.close()
  })

  story('who says no there is told so here', async () => {
    const p = await open()
    await begin(p, '/orders')
    await p.page.waitForURL((u) => u.origin === issuer)
    await p.page.locator('a[href$="/abort"]').click()
    await p.hook('return-error').waitFor()
    await p.accessible('a sign-in that was refused')
    assert.equal(await p.hook('account-link').count(), 0)
    await until('the address is clean', () => new URL(p.page.url()).search === '')
    await p.close()
  })
})
