/*
 * Fetches the build of analytics.js that the collector serves, and makes it ready to be served:
 *
 *     node scripts/sdk.mjs DIRECTORY             what `make sdk` and the Dockerfile do
 *     node scripts/sdk.mjs DIRECTORY TARBALL     the same from a file that is there already
 *
 * One version, of which npm's hash is checked; where it comes from is for npm's configuration to say.
 * DIRECTORY/<version> then holds the package's own files, unchanged, in dist/umd, and once more in
 * dist/neutral with other names and without Segment's addresses, each also as gzip and Brotli.
 * A newer version: `npm view @segment/analytics-next version dist.integrity`, and `make sdk test`.
 */

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Script } from 'node:vm'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'

const NAME = '@segment/analytics-next'
const VERSION = '1.84.3'
const INTEGRITY = 'sha512-5l7cPBzScxhfJ0zdcKQI4daDvMIWWUk7hClT1xGRelnHUltIEoQ9w8+ZpFPoWJMpX8D7IA1nVAfJbpiKi3XaKw=='

// What differs in the neutral build: [what stands there, what shall, how often it stands there].
const CHANGES = [
  // Parts are called by their number: 248.f131….js instead of auto-track.bundle.f131….js.
  [/\(\{(?:\d+:"[\w-]+",?)+\}\[(\w)\]\|\|\1\)\+"\.bundle\."\+/g, ' $1+"."+', 1],
  [/"\/analytics-next\/bundles\/"/g, '"/lib/"', 1],
  [/"https:\/\/cdn\.segment\.com\/analytics-next\/bundles\/"/g, '"/lib/"', 1],
  // A page that is not told its collector speaks to nobody, also not about errors.
  [/"https:\/\/cdn\.segment\.com"/g, '"https://nowhere.invalid"', 1],
  [/"https:\/\/cdn\.segment\.com\/analytics\.js\/v1\/"/g, '"https://nowhere.invalid/"', 1],
  [/"api\.segment\.io\/v1"/g, '"nowhere.invalid/v1"', 1],
]

function neutral(script) {
  for (const [pattern, replacement, times] of CHANGES) {
    const found = (script.match(pattern) ?? []).length
    if (found !== times) throw new Error(`${pattern} stands ${found} times in this build, not ${times}`)
    script = script.replace(pattern, replacement)
  }
  new Script(script) // throws if it is none any more
  return script
}

function write(path, body) {
  writeFileSync(path, body)
  writeFileSync(`${path}.gz`, gzipSync(body, { level: 9 }))
  const params = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: body.length }
  writeFileSync(`${path}.br`, brotliCompressSync(body, { params }))
}

const sri = (path) => `sha384-${createHash('sha384').update(readFileSync(path)).digest('base64')}`

const [, , to, given] = process.argv
if (to === undefined) throw new Error('usage: node scripts/sdk.mjs DIRECTORY [TARBALL]')
const directory = resolve(to)
const work = mkdtempSync(join(tmpdir(), 'sdk-'))
try {
  let tarball = given
  if (tarball === undefined) {
    const pack = ['pack', `${NAME}@${VERSION}`, '--silent', '--ignore-scripts', '--pack-destination', work]
    execFileSync('npm', pack, { cwd: work, stdio: ['ignore', 'ignore', 'inherit'] })
    tarball = join(work, readdirSync(work).find((name) => name.endsWith('.tgz')))
  }
  const hash = `sha512-${createHash('sha512').update(readFileSync(tarball)).digest('base64')}`
  if (hash !== INTEGRITY) throw new Error(`${NAME} ${VERSION} has the hash ${hash}, not ${INTEGRITY}`)
  execFileSync('tar', ['-xzf', resolve(tarball), '-C', work])

  const from = join(work, 'package')
  const made = join(directory, `.${VERSION}.${process.pid}`)
  const umd = join(made, 'dist', 'umd')
  const other = join(made, 'dist', 'neutral')
  for (const path of [umd, other]) mkdirSync(path, { recursive: true })
  for (const name of ['package.json', 'LICENSE.MD']) cpSync(join(from, name), join(made, name))
  const parts = /^(?:[\w-]+)\.bundle\.([0-9a-f]+)\.js$/
  const script = readFileSync(join(from, 'dist', 'umd', 'standalone.js'), 'utf8')
  for (const name of readdirSync(join(from, 'dist', 'umd'))) {
    const part = parts.exec(name)
    if (part === null && name !== 'standalone.js') continue
    const body = readFileSync(join(from, 'dist', 'umd', name))
    write(join(umd, name), body)
    if (part === null) continue
    const number = new RegExp(`(\\d+):"${part[1]}"`).exec(script)
    if (number === null) throw new Error(`the script does not load ${name}`)
    write(join(other, `${number[1]}.${part[1]}.js`), body)
  }
  write(join(other, 'core.js'), Buffer.from(neutral(script)))
  rmSync(join(directory, VERSION), { recursive: true, force: true })
  renameSync(made, join(directory, VERSION))
} finally {
  rmSync(work, { recursive: true, force: true })
}

const dist = join(directory, VERSION, 'dist')
console.log(`analytics.js ${VERSION} is in ${directory}; a collector that runs serves it once started again.

    /analytics.js/v1/<write key>/analytics-${VERSION}.min.js
        integrity="${sri(join(dist, 'umd', 'standalone.js'))}"
    /x/lib/<write key>/core-${VERSION}.js
        integrity="${sri(join(dist, 'neutral', 'core.js'))}"
`)
