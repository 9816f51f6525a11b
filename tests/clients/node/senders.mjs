// A program that uses other vendors' SDKs as people do, and writes down what each call said and what
// became of it, as far as the SDK tells.
//
//     node senders.mjs CLIENT URL KEY OUTPUT COUNT PAUSE_MS        CLIENT: rudder, jitsu, cdp, customerio

import { createRequire } from 'node:module'
import { writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

const [client, url, key, output, count, pauseMs] = process.argv.slice(2)
const require = createRequire(import.meta.url)
const TEXTS = ['plain', 'Blåbærsyltetøy', '日本語', '😀 👩‍👩‍👧', 'half \ud83d', 'nul \u0000!', '"\\/\n\t{}[]']
const WHEN = new Date(Date.UTC(2020, 1, 29, 21, 59, 59))

const calls = []
const sent = []
const failed = []
const done = (call) => (error) => (error ? failed : sent).push(call.n)

// One call of every kind in ten; half of them of a time long ago.
function make(n) {
  const properties = {
    n,
    text: TEXTS[n % 7],
    big: 2 ** 53 + 2 * n,
    small: 1.5e-7,
    nan: NaN,
    list: [null, true, [], {}, ''],
    nested: { 'å': { b: [{ c: n }] } },
  }
  const call = { n, type: 'track', name: `Event ${TEXTS[n % 7]}`, user: `user-${n % 17}`, properties }
  if (n % 10 === 0) Object.assign(call, { type: 'identify', name: null })
  if (n % 10 === 1) Object.assign(call, { type: 'page', name: 'Docs' })
  if (n % 10 === 2) Object.assign(call, { type: 'group', name: null, group: `group-${n}` })
  if (n % 10 === 3) Object.assign(call, { user: null, anonymous: `anon-${n % 17}` })
  if (n % 2) call.when = WHEN.toISOString()
  // As JSON has it: no NaN, and texts as they go over the wire.
  calls.push(JSON.parse(JSON.stringify(call)))
  return call
}

const segmentLike = (call) => ({
  ...(call.user ? { userId: call.user } : { anonymousId: call.anonymous }),
  ...(call.when ? { timestamp: new Date(call.when) } : {}),
  ...(call.type === 'track' ? { event: call.name } : {}),
  ...(call.type === 'page' ? { name: call.name } : {}),
  ...(call.group ? { groupId: call.group } : {}),
  [call.type === 'identify' || call.type === 'group' ? 'traits' : 'properties']: call.properties,
})

// 26 characters by which Customer.io knows an event that is sent again.
const ulid = (n) => `01E29XK5W0${String(n).padStart(16, '0')}`

const clients = {
  rudder() {
    const Rudder = require('@rudderstack/rudder-sdk-node')
    const rudder = new Rudder(key, { dataPlaneUrl: url, flushInterval: 200, retryCount: 12, logLevel: 'none' })
    return {
      make: (call) => rudder[call.type](segmentLike(call), done(call)),
      async end() {
        while (sent.length + failed.length < calls.length) {
          await rudder.flush().catch(() => {})
          await pause(50)
        }
      },
    }
  },

  cdp() {
    const { Analytics } = require('@customerio/cdp-analytics-node')
    const cdp = new Analytics({ writeKey: key, host: url, flushInterval: 200, maxRetries: 40 })
    return {
      make: (call) => cdp[call.type](segmentLike(call), done(call)),
      end: () => cdp.closeAndFlush({ timeout: 60_000 }),
    }
  },

  jitsu() {
    const { jitsuAnalytics } = require('@jitsu/js')
    const errors = []
    const jitsu = jitsuAnalytics({
      host: url,
      writeKey: `${key}:secret`,
      s2s: true,
      errorPolicy: (message) => errors.push(message),
    })
    let user = null
    return {
      async make(call) {
        const before = errors.length
        const recorded = calls.at(-1)
        // The SDK knows one user at a time, and no time but now.
        if (call.type === 'identify') {
          user = call.user
          await jitsu.identify(call.user, call.properties)
        } else if (call.type === 'group') await jitsu.group(call.group, call.properties)
        else if (call.type === 'page') await jitsu.page('Docs', call.properties)
        else await jitsu.track(call.name, call.properties)
        Object.assign(recorded, { user, anonymous: undefined, when: undefined })
        done(call)(errors.length > before)
      },
      async end() {},
    }
  },

  customerio() {
    const { TrackClient } = require('customerio-node')
    const { hostname, port } = new URL(url)
    // The port in its url it ignores.
    const cio = new TrackClient(key, 'api-key', { url: `https://${hostname}/api/v1`, port })
    return {
      async make(call) {
        const recorded = calls.at(-1)
        const data = { name: call.name, data: call.properties, id: ulid(call.n) }
        if (call.when) data.timestamp = Date.parse(call.when) / 1000
        try {
          if (call.type === 'identify') {
            recorded.when = undefined // it has no place for a time
            await cio.identify(call.user, call.properties)
          } else if (call.type === 'page') {
            await cio.track(call.user, { ...data, type: 'page' })
          } else if (call.type === 'group') {
            Object.assign(recorded, { type: 'track', name: 'No group', group: undefined })
            await cio.track(call.user, { ...data, name: 'No group' })
          } else if (call.user) await cio.track(call.user, data)
          else await cio.trackAnonymous(call.anonymous, data)
          done(call)()
        } catch (error) {
          done(call)(error)
        }
      },
      async end() {},
    }
  },
}

const { make: send, end } = clients[client]()
for (let n = 1; n <= Number(count); n++) {
  await send(make(n))
  if (Number(pauseMs)) await pause(Number(pauseMs))
}
await end()
writeFileSync(output, JSON.stringify({ calls, sent, failed }))
process.exit(0)
