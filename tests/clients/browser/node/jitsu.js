import { jitsuAnalytics } from '@jitsu/js'

window.jitsuAnalytics = jitsuAnalytics
