#!/usr/bin/python3
"""A desktop's half of the tray and of notifications, for tests: desktop.py PROGRAM [ARGUMENT…]

Owns the names of a status notifier watcher and of a notification service on the session bus, then runs PROGRAM.
Commands are lines of JSON on standard input, answers are lines of JSON on standard output:
  {"do": "menu"}                      labels of the tray's menu, null until there is a tray
  {"do": "click", "label": L}         true if there was such an item
  {"do": "notices"}                   [[id, title, body], …]
  {"do": "act", "id": N}              as a click on the notification
  {"do": "run", "command": [P, …]}    runs it to its end in the same session: its status
  {"do": "leave"}                     takes the keyboard from all windows: without a window manager the one below the
                                      pointer would have it for ever
"""
import ctypes
import json
import subprocess
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

ITEM = "org.kde.StatusNotifierItem"
MENU = "com.canonical.dbusmenu"
WATCHER = "org.kde.StatusNotifierWatcher"
NOTES = "org.freedesktop.Notifications"
PROPERTIES = "org.freedesktop.DBus.Properties"

dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()


class Watcher(dbus.service.Object):
    """What the tray's item registers with."""

    item = None

    @dbus.service.method(WATCHER, in_signature="s", sender_keyword="sender")
    def RegisterStatusNotifierItem(self, service, sender=None):
        Watcher.item = (sender, service) if service.startswith("/") else (service, "/StatusNotifierItem")

    @dbus.service.method(WATCHER, in_signature="s")
    def RegisterStatusNotifierHost(self, service):
        pass

    @dbus.service.method(PROPERTIES, in_signature="ss", out_signature="v")
    def Get(self, interface, name):
        return {"IsStatusNotifierHostRegistered": True, "ProtocolVersion": dbus.Int32(0)}.get(name, dbus.Array([], signature="s"))

    @dbus.service.method(PROPERTIES, in_signature="s", out_signature="a{sv}")
    def GetAll(self, interface):
        return {"IsStatusNotifierHostRegistered": True, "ProtocolVersion": dbus.Int32(0)}


class Notes(dbus.service.Object):
    """What notifications are sent to."""

    seen = []

    @dbus.service.method(NOTES, in_signature="susssasa{sv}i", out_signature="u")
    def Notify(self, app, replaces, icon, title, body, actions, hints, timeout):
        Notes.seen.append([len(Notes.seen) + 1, str(title), str(body)])
        return dbus.UInt32(len(Notes.seen))

    @dbus.service.signal(NOTES, signature="us")
    def ActionInvoked(self, note, action):
        pass


def menu():
    """The menu's items by label, and the menu; none without a tray."""
    if Watcher.item is None:
        return None, None
    name, path = Watcher.item
    item = bus.get_object(name, path, introspect=False)
    where = dbus.Interface(item, PROPERTIES).Get(ITEM, "Menu")
    proxy = dbus.Interface(bus.get_object(name, where, introspect=False), MENU)
    proxy.AboutToShow(0)
    _, (_, _, children) = proxy.GetLayout(0, -1, dbus.Array([], signature="s"))
    items = {}
    for number, about, _ in children:
        label = str(about.get("label", "")).replace("_", "", 1)
        if label and about.get("visible", True):
            items[label] = number
    return items, proxy


def leave():
    """No window has the keyboard."""
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    display = ctypes.c_void_p(x11.XOpenDisplay(None))
    nobody, then, now = ctypes.c_ulong(0), ctypes.c_int(0), ctypes.c_ulong(0)
    x11.XSetInputFocus(display, nobody, then, now)
    x11.XCloseDisplay(display)
    return True


def answer(request):
    what = request["do"]
    if what == "leave":
        return leave()
    if what == "notices":
        return Notes.seen
    if what == "run":
        return subprocess.run(request["command"], stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=60).returncode
    if what == "act":
        notes.ActionInvoked(dbus.UInt32(request["id"]), "default")
        return True
    items, proxy = menu()
    if what == "menu":
        return items and list(items)
    if items and request["label"] in items:
        proxy.Event(items[request["label"]], "clicked", dbus.Int32(0, variant_level=1), dbus.UInt32(0))
        return True
    return False


def line(source, condition):
    text = sys.stdin.readline()
    if not text:
        loop.quit()
        return False
    try:
        reply = answer(json.loads(text))
    except dbus.DBusException as error:
        reply = {"error": str(error)}
    print(json.dumps(reply), flush=True)
    return True


names = [dbus.service.BusName(name, bus) for name in (WATCHER, NOTES)]
watcher = Watcher(bus, "/StatusNotifierWatcher")
notes = Notes(bus, "/org/freedesktop/Notifications")
program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
loop = GLib.MainLoop()
GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, line)
loop.run()
program.terminate()
program.wait()
