// People in browsers: one Chromium for the whole run, a context of his own for each person. Whatever a page does that it must not
// (an error, a broken policy, a dialog, a canary that sang) fails the test in which it happened.
import { chromium } from 'playwright-core'
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readFileSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { password, root } from './house.mjs'

const here = fileURLToPath(new URL('.', import.meta.url))
export const artefacts = join(here, 'artefacts')
const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

export const phone = { width: 390, height: 844 }
export const desktop = { width: 1280, height: 800 }

let launched
/** The one browser. */
export function browser() {
  launched ??= chromium.launch({
    executablePath: execFileSync(join(here, 'browser.sh'), { encoding: 'utf8' }).trim(),
    headless: process.env.HEADED !== '1',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
      '--disable-sync', '--disable-dev-shm-usage', '--disable-renderer-backgrounding', '--disable-background-timer-throttling', '--lang=en-US'],
  })
  return launched
}

export async function closeBrowser() {
  if (launched) await (await launched).close()
  launched = undefined
}

// Runs in every page before anything else: notes what the policy stopped, and is the canary that hostile texts try to reach.
const watcher = () => {
  addEventListener('securitypolicyviolation', (e) => {
    console.error(`policy: ${e.violatedDirective} stopped ${e.blockedURI || e.sample || 'something'} (${e.sourceFile}:${e.lineNumber})`)
  })
  window.canary = (what) => console.error(`canary: a script ran (${what})`)
}

const present = new Set()

/** A test of the runner, with a picture of everybody's page where it fails. Who came in it and is still there goes home. */
export function story(name, f) {
  test(name, async (t) => {
    const before = new Set(present)
    try {
      await f(t)
    } catch (e) {
      let n = 0
      for (const p of present) await p.shot(`failed-${name.replace(/[^a-z0-9]+/gi, '-').slice(0, 60)}-${++n}`, { timeout: 3000 }).catch(() => {})
      if (!/things went wrong/.test(e.message))
        for (const p of present) for (const what of p.problems) e.message += `\n  in the page: ${what}`
      throw e
    } finally {
      for (const p of present) if (!before.has(p)) await p.leave()
    }
  })
}

/** A person: a page with all that went wrong in it. */
export class Person {
  problems = []
  found = new Set()
  at = '' // where he is, for what is told

  /**
   * at is the house; size phone or desktop; language en or zh; allow is a pattern of problems that this test means to cause.
   */
  static async open(at, { size = phone, language = 'en', allow, state, theme = 'light' } = {}) {
    const p = new Person()
    p.house = at
    p.allow = allow
    p.context = await (await browser()).newContext({
      baseURL: at.base, viewport: size, locale: language === 'zh' ? 'zh-CN' : 'en-US', timezoneId: 'UTC', reducedMotion: 'reduce', colorScheme: theme,
      deviceScaleFactor: 1, hasTouch: size === phone, isMobile: size === phone, storageState: state,
    })
    p.context.setDefaultTimeout(15_000)
    await p.context.addInitScript(watcher)
    p.context.on('page', (page) => p.watch(page))
    p.page = await p.context.newPage()
    present.add(p)
    return p
  }

  watch(page) {
    const bad = (what) => {
      if (!this.allow?.test(what)) this.problems.push(this.at ? `${what} [at ${this.at}]` : what)
    }
    page.on('pageerror', (e) => bad(`error: ${e.stack ?? e.message ?? e}`))
    page.on('dialog', (d) => {
      bad(`dialog: ${d.type()} ${d.message()}`)
      void d.dismiss()
    })
    page.on('crash', () => bad('the page crashed'))
    page.on('console', (m) => {
      if (m.type() !== 'error' && m.type() !== 'warning') return
      const text = m.text()
      const where = m.location().url ?? ''
      // What the API refused is shown by the page; the browser notes each refusal besides.
      if (text.startsWith('Failed to load resource') && /\/v1\//.test(where) && !/status of 5\d\d/.test(text)) return
      bad(`console ${m.type()}: ${text} ${where && `(${where})`}`)
    })
    page.on('response', (r) => {
      if (r.status() >= 500 && r.status() !== 503) bad(`${r.request().method()} ${r.url()} answered ${r.status()}`)
      if (new URL(r.url()).origin !== this.house.base && !/^(data|blob):/.test(r.url())) bad(`something was loaded from elsewhere: ${r.url()}`)
    })
  }

  /** An element by its hook. */
  hook = (name, more = '') => this.page.locator(`[data-test="${name}"]${more}`)

  /** Fails when anything went wrong in his pages. */
  check() {
    const found = this.problems.splice(0)
    assert.deepEqual(found, [], `${found.length} things went wrong in the page`)
  }

  async close() {
    await this.leave()
    this.check()
  }

  /** Closes without a look at what went wrong. */
  async leave() {
    present.delete(this)
    await this.context.close()
  }

  // The storefront.

  async goto(path) {
    await this.page.goto(path)
    await this.ready()
  }

  /** Waits until the page of the storefront shows what it is for. */
  async ready(page) {
    await this.page.locator(`main[data-test="page"]${page ? `[data-page="${page}"]` : ''}:not([data-state="loading"])`).waitFor()
  }

  /** Signs in by the form. */
  async signIn(name, next = '/') {
    await this.page.goto(`/sign-in?next=${encodeURIComponent(next)}`)
    await this.hook('name').fill(name)
    await this.hook('password').fill(password)
    await this.hook('sign-in').click()
    await this.page.waitForURL((u) => u.pathname === new URL(next, this.house.base).pathname)
    await this.ready()
  }

  /** Waits for a step of the sale page. */
  async step(...names) {
    const any = names.map((n) => `[data-test="sale"][data-step="${n}"]`).join(', ')
    try {
      await this.page.locator(any).waitFor()
    } catch (e) {
      const at = await this.page.locator('[data-test="sale"]').getAttribute('data-step').catch(() => 'no sale page')
      throw new Error(`waited for the step ${names.join(' or ')}, it is ${at}`, { cause: e })
    }
    return this.page.locator('[data-test="sale"]').getAttribute('data-step')
  }

  number = async (name, attribute) => Number(await this.hook(name).getAttribute(attribute))

  /** Pays at the test provider and comes back. The page that leads there is open. */
  async payAtProvider() {
    await this.page.waitForURL(/\/test-provider\//)
    await this.page.locator('button[value="pay"]').click()
    await this.page.locator('button[value="pay"]').waitFor({ state: 'detached' })
    await this.page.locator('main > p a').click() // the way back
    await this.page.waitForURL(/\/orders\//)
  }

  // The console.

  async console(path = '/console/', who = 'operator') {
    await this.page.goto(`/console/sign-in?to=${encodeURIComponent(path.replace(/^\/console/, '') || '/')}`)
    await this.field('name').fill(who)
    await this.field('password').fill(password)
    await this.hook('submit').click()
    await this.page.waitForURL((u) => !u.pathname.endsWith('/sign-in'))
    await this.page.locator('[data-test="who"], [data-test="open-nav"]').locator('visible=true').first().waitFor()
  }

  /** Answers the dialog before an act with yes; reads what it says will happen. */
  async confirm({ reason = 'for a test', units } = {}) {
    await this.hook('confirm').waitFor()
    const effect = (await this.hook('confirm-effect').textContent()).trim()
    assert.ok(effect.length > 10, `the dialog does not say what will happen: ${effect}`)
    const control = (name) => this.page.locator(`[data-test="${name}"]`).locator('xpath=descendant-or-self::*[self::input or self::textarea]').first()
    if (await control('confirm-reason').count()) await control('confirm-reason').fill(reason)
    if (units) await control('confirm-units').fill(String(units))
    if (await control('confirm-typed').count()) {
      const asked = await this.page.locator('[data-test="field-typed"]').textContent()
      await control('confirm-typed').fill(/[“"「]([^”"」]+)[”"」]/.exec(asked)?.[1] ?? /\S+$/.exec(asked.trim())[0])
    }
    await this.hook('confirm-yes').click()
    await this.hook('confirm').waitFor({ state: 'hidden' })
  }

  /** The control of a field of the console. */
  field = (name) => this.page.locator(`[data-test="field-${name}"]`).locator('input, textarea, select, [role="switch"]').first()

  /** A picture of the page. name is of the artefact. */
  async shot(name, options = {}) {
    await mkdir(artefacts, { recursive: true })
    await this.page.evaluate(() => document.fonts.ready)
    await this.page.screenshot({ path: join(artefacts, `${name}.png`), animations: 'disabled', caret: 'hide', ...options })
  }

  /** A picture for the README, when they are to be made anew. */
  async picture(name) {
    if (process.env.UPDATE_PICTURES !== '1') return
    const dir = join(root, 'docs', 'pictures')
    await mkdir(dir, { recursive: true })
    const path = join(dir, `${name}.png`)
    await this.page.screenshot({ path, animations: 'disabled', caret: 'hide' })
    const size = (await readFile(path)).length
    assert.ok(size <= 150 << 10, `${name}.png has ${size} bytes, at most 150 KiB are kept`)
  }

  /** Looks for what axe calls serious or critical. It is told with all else that went wrong, so that the test goes on. */
  async accessible(what) {
    const before = this.problems.length
    await this.page.evaluate(axeSource)
    const { violations } = await this.page.evaluate(() =>
      window.axe.run(document, { resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
    )
    this.problems.length = before // what axe itself did is no defect of the page
    const bad = violations.filter((v) => v.impact === 'serious' || v.impact === 'critical')
    for (const v of bad)
      for (const n of v.nodes.slice(0, 3)) {
        const one = `${v.id} ${n.html.replace(/"[^"]*[0-9a-z]{20,}[^"]*"/g, '""').slice(0, 60)}`
        if (this.found.has(one)) continue // once a person is enough
        this.found.add(one)
        this.problems.push(`axe, ${what}: ${v.impact} ${v.id}: ${n.failureSummary?.split('\n')[1]?.trim() ?? v.help} ${n.target.join(' ')} ${n.html.slice(0, 160)}`)
      }
  }
}

/** Keeps a figure of the run in artefacts/measures.json and prints it. Nothing is asserted on it. */
export async function measure(name, value) {
  await mkdir(artefacts, { recursive: true })
  const path = join(artefacts, 'measures.json')
  let all = {}
  try {
    all = JSON.parse(await readFile(path, 'utf8'))
  } catch {
    // the first one
  }
  all[name] = value
  await writeFile(path, JSON.stringify(all, null, 2) + '\n')
  console.log(`measured: ${name} ${JSON.stringify(value)}`)
}

export const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]
