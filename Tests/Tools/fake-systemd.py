#!/usr/bin/python3
"""Plays the part of systemd on a message bus that `run --memory` needs: StartTransientUnit for a scope with delegation.

usage: fake-systemd.py CGROUP [OWNER]    moves the processes into CGROUP/<unit>, which then belongs to OWNER
"""

import os
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

TOP, OWNER = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
MANAGER = 'org.freedesktop.systemd1.Manager'


class Unit(dbus.service.Object):
    @dbus.service.method('org.freedesktop.DBus.Properties', in_signature='ss', out_signature='v')
    def Get(self, interface, name):
        assert (interface, name) == ('org.freedesktop.systemd1.Scope', 'ControlGroup')
        return self.group


class Manager(dbus.service.Object):
    units = {}

    @dbus.service.method(MANAGER, in_signature='ssa(sv)a(sa(sv))', out_signature='o')
    def StartTransientUnit(self, name, mode, properties, auxiliary):
        values = dict(properties)
        assert mode == 'fail' and bool(values['Delegate'])
        path = os.path.join(TOP, name)
        os.mkdir(path)
        for pid in values['PIDs']:
            with open(path + '/cgroup.procs', 'w') as file:
                file.write(str(int(pid)))
        for file in ('', '/cgroup.procs', '/cgroup.subtree_control', '/cgroup.threads'):
            os.chown(path + file, OWNER, OWNER)
        unit = Unit(self.connection, '/org/freedesktop/systemd1/unit/u%d' % len(self.units))
        unit.group = path[len('/sys/fs/cgroup'):]
        self.units[str(name)] = unit
        GLib.timeout_add(20, lambda: self.JobRemoved(7, '/org/freedesktop/systemd1/job/7', name, 'done') and False)
        return dbus.ObjectPath('/org/freedesktop/systemd1/job/7')

    @dbus.service.method(MANAGER, in_signature='s', out_signature='o')
    def GetUnit(self, name):
        return dbus.ObjectPath(self.units[str(name)].__dbus_object_path__)

    @dbus.service.signal(MANAGER, signature='uoss')
    def JobRemoved(self, number, job, unit, result):
        pass


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()
name = dbus.service.BusName('org.freedesktop.systemd1', bus)
manager = Manager(bus, '/org/freedesktop/systemd1')
print('ready', flush=True)
GLib.MainLoop().run()
